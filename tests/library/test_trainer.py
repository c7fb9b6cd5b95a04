"""transformers' own Trainer with our model: accumulation, label smoothing and evaluation mean what they say."""

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from tests.helpers.training_runs import make_loop, records
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.training.baselines.marian import PlannedTrainer
from vaswani_tx.training.engine.optimizer import PaperAdam

TEXTS = ["a b c", "b c d e f", "c", "d e", "e f a b", "f", "a c e", "b d f a c e"]


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(TEXTS * 4), vocab_size=270, show_progress=False)


def make_trainer(tokenizer, folder, **settings) -> Seq2SeqTrainer:
    torch.manual_seed(0)
    config = VaswaniConfig(
        vocab_size=len(tokenizer), d_model=16, d_ff=32, num_heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0
    )
    model = VaswaniForConditionalGeneration(config)
    rows = [tokenizer(text, text_target=" ".join(reversed(text.split()))) for text in TEXTS]
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder), max_steps=2, learning_rate=1e-2, report_to="none", save_strategy="no", logging_steps=1,
        use_cpu=True, disable_tqdm=True, train_sampling_strategy="sequential", **settings,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    return Seq2SeqTrainer(model, arguments, collator, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)


def losses(trainer: Seq2SeqTrainer) -> list[float]:
    trainer.train()
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def test_accumulation_equals_one_large_batch(tokenizer, tmp_path):
    whole = make_trainer(tokenizer, tmp_path, per_device_train_batch_size=8)
    parts = make_trainer(tokenizer, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    weights = zip(whole.model.parameters(), parts.model.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in weights) < 1e-5


def test_smoothing_by_the_trainer_equals_smoothing_by_the_model(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, per_device_train_batch_size=8, label_smoothing_factor=0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        ours = trainer.model(**batch, label_smoothing=0.1).loss.item()
    assert losses(trainer)[0] == pytest.approx(ours, abs=1e-4)


def test_evaluation_reports_loss_and_generates(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, per_device_train_batch_size=8, predict_with_generate=True)
    result = trainer.predict(trainer.eval_dataset, num_beams=2, max_new_tokens=9)
    assert result.metrics["test_loss"] > 0 and result.predictions.shape[0] == len(TEXTS)
    assert "eval_loss" in trainer.evaluate()


def test_trainer_and_our_loop_make_the_same_updates(reversal, tmp_path, fresh_accelerate):
    """Two batches of different sizes an update, smoothed labels, the paper's schedule: loss and weights are equal."""
    batches = [range(3), range(3, 20), range(20, 21), range(21, 48)]
    loop = make_loop(reversal, tmp_path / "loop", batches, accumulation_steps=2, max_steps=4)
    twin = make_loop(reversal, tmp_path / "twin", batches)
    tokenizer = VaswaniTokenizer.from_pretrained(reversal / "tokenizer")
    loop.run()

    def collator(indices):
        batch = twin.task.collate(indices)
        return batch | {"decoder_input_ids": twin.bare_model.prepare_decoder_input_ids_from_labels(batch["labels"])}

    settings = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path / "trainer"), max_steps=4, gradient_accumulation_steps=2, label_smoothing_factor=0.1,
        max_grad_norm=0.0, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False,
    )  # fmt: skip
    model = twin.bare_model
    optimizer = PaperAdam().build(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    trainer = PlannedTrainer(
        model, settings, collator, train_dataset=range(48), processing_class=tokenizer,
        optimizers=(optimizer, LambdaLR(optimizer, lambda done: twin.schedule(done + 1))),
    )  # fmt: skip
    trainer.plan = twin.task.plan
    expected = [record["loss"] for record in records(tmp_path / "loop", "train")]
    assert losses(trainer) == pytest.approx(expected, abs=1e-4)
    for (name, ours), theirs in zip(loop.bare_model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-6, msg=name)
