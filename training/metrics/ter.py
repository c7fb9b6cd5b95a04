"""Corpus TER by sacreBLEU as an `evaluate` metric that loads from its path without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/ter.py'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

from sacrebleu.metrics import TER

from .texts import SacreBleuModule, info

_DESCRIPTION = """Translation edit rate (Snover et al., 2006): the edits (words inserted, deleted, replaced, and runs of
words moved) that turn the hypotheses into their references, in percent of the references' words, as sacreBLEU computes
it. Lower is better; 0 is equality, and it may exceed 100."""

_ARGUMENTS = """    normalized (bool): tokenise punctuation as Tercom does. Default False.
    no_punct (bool): leave punctuation out. Default False.
    asian_support (bool): separate East Asian characters from each other; with `normalized`. Default False.
    case_sensitive (bool): tell upper case from lower. Default False, as Tercom does.

Returns:
    score, num_edits, ref_length (words, the mean over the references), signature.
"""

_CITATION = """@inproceedings{snover-etal-2006-study,
    title = "A Study of Translation Edit Rate with Targeted Human Annotation",
    author = "Snover, Matthew and Dorr, Bonnie and Schwartz, Rich and Micciulla, Linnea and Makhoul, John",
    booktitle = "Proceedings of the 7th Conference of the Association for Machine Translation in the Americas",
    year = "2006"
}"""


class Ter(SacreBleuModule):
    """Corpus TER with the sacreBLEU signature."""

    metric = TER
    returned = ("score", "num_edits", "ref_length")

    def _info(self):
        return info(_DESCRIPTION, _ARGUMENTS, _CITATION)
