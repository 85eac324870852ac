"""What people play: recorded files joined into clips and playlists, and films and contact sheets made of pictures."""
