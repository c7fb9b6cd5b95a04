"""Engines that translate faster than `generate`: CTranslate2 and ONNX, behind the interface of a model.

    from vaswani_tx.engines import load_engine

    model, tokenizer = load_engine("runs/first/averaged", "ctranslate2", quantization="int8")
    pipe = TranslationPipeline(model=model, tokenizer=tokenizer)

A folder is one that `vaswani-tx export` wrote, or a model's, which is exported once into a cache.
"""

from vaswani_tx.engines.cache import cache_folder, exported
from vaswani_tx.engines.load import ENGINES, load_engine

__all__ = ["ENGINES", "cache_folder", "exported", "load_engine"]
