"""Model folders that carry their own code, and pushing to the Hugging Face Hub.

    from vaswani_tx.hub import push_to_hub, save_with_code

    save_with_code("runs/first/averaged", "my-model")           # loads anywhere with trust_remote_code=True
    push_to_hub("runs/first/averaged", "me/my-model", private=True, dry_run=True)

Only a fixed list is saved or sent: the code files of the model's family (`FAMILIES`), its weights as safetensors, the
files of `DATA_FILES` and a README.md. Anything else in a folder (pickles, Python files, optimiser states) is left out.
`save_pretrained` still writes no code: nothing is registered and no object is changed here.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vaswani_tx.hub.families import CARD, CODE_FOLDER, CODE_NAMES, DATA_FILES, FAMILIES, INDEX, Family, is_ours
from vaswani_tx.hub.model_card import find_run, make_card
from vaswani_tx.tokenization_vaswani_pair import TARGET_FILE

# Beginnings of names in DATA_FILES that come with a tokenizer.
_OF_TOKENIZERS = ("tokenizer", "target_tokenizer", "special", "added", "chat")


class HubError(ValueError):
    """A model that cannot be saved or sent; the message says what is wrong and how to fix it."""


@dataclass(frozen=True)
class Push:
    """The content of a push, or with `dry_run` of what would be one.

    Args:
        repo_id: the repository, with its owner once the Hub has named it.
        files: name -> size in bytes.
        deleted: files of an earlier push that this one replaces.
        url: the commit's page; None after a dry run.
        commit: the commit's id; None after a dry run.
    """

    repo_id: str
    files: dict[str, int]
    deleted: tuple[str, ...] = ()
    url: str | None = None
    commit: str | None = None


def save_with_code(
    model: PreTrainedModel | str | os.PathLike,
    folder: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None = None,
    *,
    card: str | None = None,
    run: str | os.PathLike | None = None,
    titles: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder that loads with `trust_remote_code=True` where this package is not installed.

    The folder is whole or absent. It also loads with this package, and then none of its code runs.

    Args:
        model: a model of ours, or a folder that one was saved to.
        folder: where to write.
        tokenizer: the tokenizer or its folder; None: the one in the model's folder.
        card: text of README.md. None: written from `run`; else the README.md of the model's folder; else from the run
            that the folder belongs to (`RUN/best`, `RUN/averaged`); else a short one.
        run: folder of the training run that made the model.
        titles: titles of the scores in a written card, as in `make_card`.
        overwrite: replace the model in `folder`. Files there that are no part of a model are kept.

    Raises:
        HubError: not a model of ours, no tokenizer, damaged weights, `folder` in use, or it cannot be written.
    """
    target = Path(os.path.abspath(folder))
    if target.exists() and not target.is_dir():
        raise HubError(f"'{target}' is a file: name a folder.")
    present = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if present and not overwrite:
        shown = ", ".join(present[:4]) + (", ..." if len(present) > 4 else "")
        raise HubError(f"'{target}' is not empty ({shown}): choose another folder, or pass overwrite=True.")
    with whole_folder(target) as new:
        scratch = new / ".scratch"
        contents = _gather(model, tokenizer, scratch, code=True)
        if card is not None or run is not None or CARD not in contents:
            contents[CARD] = _card(model, scratch, card, run, target.name, True, titles)
        for name, content in contents.items():
            _put(content, new / name, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    return Path(folder)


def push_to_hub(
    model: PreTrainedModel | str | os.PathLike,
    repo_id: str,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None = None,
    *,
    code: bool = True,
    card: str | None = None,
    run: str | os.PathLike | None = None,
    titles: Mapping[str, str] | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    dry_run: bool = False,
) -> Push:
    """Send model, tokenizer, card and code to the Hub in one commit; nothing of the folder beyond the fixed list.

    The token is the one of `hf auth login` or of the environment variable HF_TOKEN. A README.md that the repository
    already has is kept unless `card` or `run` is given. Weights and code of an earlier push that this one replaces by
    files of other names are deleted in the same commit.

    Args:
        model, tokenizer, card, run, titles: as in `save_with_code`.
        repo_id: "owner/name"; "name" alone is the token's owner's.
        code: also send the code that `trust_remote_code=True` runs.
        private: True: only the owner sees a new repository; an existing public one is refused. None: the Hub's default.
        revision: branch to commit to, made where it does not exist; None: main.
        commit_message: of the one commit.
        dry_run: contact no server, only return what would be sent.

    Raises:
        HubError: as in `save_with_code`, or the Hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    if not dry_run and get_token() is None:
        raise HubError("There is no token to push with: run `hf auth login`, or set the environment variable HF_TOKEN.")
    with tempfile.TemporaryDirectory() as scratch:
        contents = _gather(model, tokenizer, Path(scratch), code=code)
        own_card = card is not None or run is not None
        if own_card or CARD not in contents:
            contents[CARD] = _card(model, Path(scratch), card, run, repo_id, code, titles)
        if dry_run:
            return Push(repo_id, _sizes(contents))
        with _explained(repo_id, revision):
            return _send(contents, repo_id, own_card, private, revision, commit_message)


def _send(
    contents: dict[str, bytes | Path],
    repo_id: str,
    own_card: bool,
    private: bool | None,
    revision: str | None,
    message: str,
) -> Push:
    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.model_info(repo_id).private:
        raise HubError(
            f"{repo_id} exists already and is public, so nothing was sent: make it private in its settings on the Hub, "
            "choose another name, or push without private=True."
        )
    if revision not in (None, "main"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    remote = set(api.list_repo_files(repo_id, revision=revision))
    if CARD in remote and not own_card:
        contents = {name: content for name, content in contents.items() if name != CARD}
    void = sorted(name for name in remote - set(contents) if name != CARD and is_ours(name))
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationDelete(path_in_repo=name) for name in void),
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()),
    ]
    # Not upload_folder: it may split a folder into several commits, and a reader between two would get half a model.
    done = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return Push(repo_id, _sizes(contents), tuple(void), done.commit_url, done.oid)


def _gather(
    model: PreTrainedModel | str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None,
    scratch: Path,
    code: bool,
) -> dict[str, bytes | Path]:
    """Return every file to write or send, by name: its bytes, or the path that it is copied from."""
    source = _as_folder(model, scratch / "model", "model")
    contents: dict[str, bytes | Path] = dict(_listed(source))
    if tokenizer is not None:
        words = _listed(_as_folder(tokenizer, scratch / "tokenizer", "tokenizer"))
        replaced = [name for name in DATA_FILES if name.startswith(_OF_TOKENIZERS)]
        contents = {name: content for name, content in contents.items() if name not in replaced}
        contents |= {name: words[name] for name in replaced if name in words}
    family = _family(contents, source)
    for name in family.needs:
        if name not in contents:
            fix = "pass the tokenizer, or its folder" if name.startswith("tokenizer") else "save the model again"
            raise HubError(f"'{source}' has no {name}: {fix}.")
    _check_target(contents, source)
    _check_weights(contents, source)
    for name in contents:
        if name in family.auto_map or name == "config.json":
            contents[name] = _with_references(name, contents[name], family if code else None)
    if code:
        contents |= {name: CODE_FOLDER / name for name in family.code}
    return contents


def _as_folder(given: Any, scratch: Path, what: str) -> Path:
    """Return the folder of a model or tokenizer; an object is saved to `scratch` first."""
    if isinstance(given, str | os.PathLike):
        if not Path(given).is_dir():
            raise HubError(f"There is no {what} folder '{given}'.")
        return Path(given)
    if not hasattr(given, "save_pretrained"):
        raise HubError(f"The {what} is a {type(given).__name__}: give one of transformers' objects or a folder.")
    given.save_pretrained(scratch)
    return scratch


def _listed(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that are on the list, not others, such as Python files and pickles."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return {name: folder / name for name in names if is_ours(name) and name not in CODE_NAMES}


def _family(contents: dict[str, bytes | Path], source: Path) -> Family:
    if "config.json" not in contents:
        raise HubError(f"'{source}' has no config.json: it is not a model folder.")
    model_type = _read_json(contents["config.json"]).get("model_type")
    if model_type not in FAMILIES:
        raise HubError(f"'{source}' holds a model of type {model_type!r}: this package shares {', '.join(FAMILIES)}.")
    return FAMILIES[model_type]


def _check_target(contents: dict[str, bytes | Path], source: Path) -> None:
    """Take out the target's vocabulary where the tokenizer has one alone; raise HubError where it lacks its second."""
    settings = _read_json(contents["tokenizer_config.json"]) if "tokenizer_config.json" in contents else {}
    if not settings.get("target"):
        contents.pop(TARGET_FILE, None)  # of a former tokenizer in the folder
    elif TARGET_FILE not in contents:
        raise HubError(f"'{source}' has no {TARGET_FILE}, which its tokenizer_config.json needs: pass the tokenizer.")


def _check_weights(contents: dict[str, bytes | Path], source: Path) -> None:
    """Raise HubError unless all weights are there as whole safetensors files."""
    weights = [name for name in contents if name.endswith(".safetensors")]
    if INDEX in contents:
        shards = set(_read_json(contents[INDEX]).get("weight_map", {}).values())
        for name in sorted(shards - set(weights)):
            raise HubError(f"'{source}' lacks {name}, which its {INDEX} names: copy the folder again.")
    if not weights:
        raise HubError(
            f"'{source}' has no model.safetensors. Pickled weights are not passed on: load the model and save it with "
            "save_pretrained. An adapter must be merged into its model first."
        )
    for name in weights:
        try:
            with safe_open(contents[name], framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise HubError(f"'{contents[name]}' is damaged ({error}): copy it again from where it is whole.") from None


def _with_references(name: str, content: bytes | Path, family: Family | None) -> bytes:
    """Return a JSON file whose references to code are exactly the family's: its own may point anywhere."""
    values = _read_json(content)
    for key in ("auto_map", "custom_pipelines"):
        values.pop(key, None)
    # A tokenizer of another class needs none of our code, and code of others does not travel.
    foreign = name == "tokenizer_config.json" and values.get("tokenizer_class") != "VaswaniTokenizer"
    if family is not None and name in family.auto_map and not foreign:
        values["auto_map"] = family.auto_map[name]
    if family is not None and name == "config.json" and family.pipelines:
        values["custom_pipelines"] = {
            task: {"impl": impl, "pt": [auto], "type": "text"} for task, (impl, auto) in family.pipelines.items()
        }
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _card(
    model: Any, scratch: Path, card: str | None, run: Any, name: str, code: bool, titles: Mapping[str, str] | None
) -> bytes:
    if card is None:
        folder = Path(model) if isinstance(model, str | os.PathLike) else scratch / "model"
        if run is None and folder.parent != scratch:
            run = find_run(folder)
        card = make_card(folder, run=run, name=name.rpartition("/")[2], load_from=name, code=code, titles=titles)
    return card.encode()


def _read_json(content: bytes | Path) -> dict[str, Any]:
    where = f"'{content}'" if isinstance(content, Path) else "a file"
    try:
        values = json.loads(content.read_text(encoding="utf-8") if isinstance(content, Path) else content)
    except (OSError, ValueError, RecursionError) as error:
        raise HubError(f"{where} is damaged ({error}): copy it again from where it is whole.") from None
    if not isinstance(values, dict):
        raise HubError(f"{where} holds no JSON object: copy it again from where it is whole.")
    return values


def _sizes(contents: dict[str, bytes | Path]) -> dict[str, int]:
    return {
        name: len(content) if isinstance(content, bytes) else content.stat().st_size
        for name, content in sorted(contents.items())
    }


def _put(content: bytes | Path, path: Path, scratch: Path) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif scratch in content.parents:
        content.rename(path)
    else:
        shutil.copyfile(content, path)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` that replaces it when the block succeeds, and is deleted otherwise.

    Files of `target` that are no part of a model move over afterwards; a kill in between leaves them in
    `.NAME.old-...` beside the new folder. Raise HubError where `target` cannot be written.
    """
    mark = secrets.token_hex(4)
    new, old = (target.parent / f".{target.name}.{kind}-{mark}" for kind in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        for path in new.iterdir():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        if target.exists():
            target.rename(old)
        new.rename(target)
        if old.exists():
            for path in old.iterdir():
                if not (is_ours(path.name) or (target / path.name).exists()):
                    path.rename(target / path.name)
            shutil.rmtree(old)
    except BaseException as error:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(new, ignore_errors=True)
        # safetensors reports an operating system's error as text only.
        if isinstance(error, OSError) or (isinstance(error, SafetensorError) and "os error" in str(error)):
            raise HubError(f"'{target}' could not be written: {error}. Nothing half-written is left.") from None
        raise


def check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} cannot be a repository's name: give owner/name. {error}") from None


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn an error of the Hub or the network into one HubError that says how to fix it."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        # huggingface_hub wraps what happens in its upload threads.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error
        message = _explanation(cause, repo_id, revision)
        if message is None:
            raise
        raise HubError(message) from None


def _explanation(error: BaseException, repo_id: str, revision: str | None) -> str | None:
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo_id} was not pushed: HF_HUB_OFFLINE is set. Unset it to reach the Hub."
    if isinstance(error, LocalTokenNotFoundError):
        return "There is no token to push with: run `hf auth login`, or set the environment variable HF_TOKEN."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no branch {revision!r} and it could not be made: push to main, or make it on the Hub."
    if isinstance(error, HfHubHTTPError):
        said = f" The Hub says: {error.server_message}" if error.server_message else ""
        status = error.response.status_code
        if status == 401:
            return f"The Hub does not know your token: renew it with `hf auth login`, or set HF_TOKEN.{said}"
        if status == 403:
            return (
                f"Your token may not write to {repo_id}: use a token with write access, and a name that begins with "
                f"your user or an organisation of yours.{said}"
            )
        if status == 404:
            return f"The Hub has no {repo_id}, or hides it from your token: check the name and the token.{said}"
        if status == 429 or status >= 500:
            return f"The Hub did not take {repo_id} now ({status}): run the same command later.{said}"
        return f"The Hub refused {repo_id} ({status}).{said}"
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        return f"The Hub could not be reached ({error or type(error).__name__}): check the network, then run it again."
    return None
