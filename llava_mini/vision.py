"""The vision tower: CLIP's ViT up to its penultimate layer, patches only."""

from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionEmbeddings


class VisionTower(nn.Module):
    """Hidden state of CLIP's layer `feature_layer` (negative: from the end), without the class token.

    Later layers are not built, because their result is never used.
    """

    def __init__(self, config: CLIPVisionConfig, feature_layer: int) -> None:
        super().__init__()
        used = config.num_hidden_layers + 1 + feature_layer if feature_layer < 0 else feature_layer
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([CLIPEncoderLayer(config) for _ in range(used)])

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(F,3,S,S) -> (F,P,V)."""
        hidden: Tensor = self.pre_layrnorm(self.embeddings(pixel_values))
        for layer in self.layers:
            hidden = layer(hidden, None)
        return hidden[:, 1:]
