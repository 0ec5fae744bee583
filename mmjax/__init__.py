"""mmjax: training multimodal-dialogue models in JAX, from one core to a TPU pod."""

__version__ = "0.1.0"
