"""The bundled checkpoints, packed with the code: `bundled:tiny` is the folder tiny/ here."""
