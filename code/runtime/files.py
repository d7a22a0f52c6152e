"""Files that survive a kill: written aside, flushed to disk, renamed."""
import io
import os
import pickle
import platform
import re
import stat
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from runtime.errors import Denied, InputError, one_line

ROOT = Path(__file__).resolve().parents[2]      # of the repository
HOST = f"{zlib.crc32(platform.node().encode()):08x}"


@contextmanager
def writing(path):
    """What the file system refuses (a full disk, a read-only folder) becomes an InputError that says so."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); free space or fix permissions, and "
                         "start the same command again; the file's previous version is untouched") from error


def write_aside(path, write):
    """Call write(binary file in memory), flush what it wrote to a temporary neighbour of `path`, rename that.

    A kill or a full disk leaves the previous file as it was; OSError becomes an InputError that says so. Links are
    replaced, not followed. In memory first: neither PyTorch nor HDF5 lives through a full disk.
    """
    path = Path(path)
    content = io.BytesIO()
    write(content)
    aside = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")    # nobody else's, even without a lock
    with writing(path):
        _clear(path)
        try:
            aside.unlink(missing_ok=True)
            with open(aside, "xb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            with suppress(OSError):
                aside.unlink()


def _clear(path):
    """Remove what killed processes of this machine left of earlier writes of `path`."""
    left = re.compile(rf"\.{re.escape(path.name)}\.{HOST}-(\d+)\.tmp")
    for entry in os.scandir(path.parent):
        if (match := left.fullmatch(entry.name)) and not psutil.pid_exists(int(match[1])):
            with suppress(OSError):
                os.unlink(entry)


def check_writable(path):
    """InputError where a file could not be written there: said before the work of which it is the result."""
    aside = Path(path).with_name(f".{Path(path).name}.{HOST}-{os.getpid()}.tmp")
    with writing(path):
        try:
            aside.touch()
        finally:
            with suppress(OSError):
                aside.unlink()


def write_text(path, text):
    """As `write_aside`, in UTF-8; bytes of a file's name that are no UTF-8 are escaped."""
    write_aside(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def check_readable(path):
    """Denied where something is there that may not be read, or whose end may never come: a pipe, a socket, a device."""
    try:
        kind = os.stat(path).st_mode
    except OSError:     # whoever opens it says so
        return
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise Denied(f"{path}: is no regular file, which was expected there; remove it, or name another path")
    if not os.access(path, os.R_OK):
        raise Denied(f"{path}: may not be read by this user; fix its permissions (chmod u+r), or run as its owner")


def expanded(path, option):
    """An absolute path, `~` and `~user` in front replaced; InputError where there is no such user."""
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, OSError, ValueError) as error:    # no such user; a circle of links; a NUL
        raise InputError(f"{option} {path}: is no path here ({one_line(error)}); name another one") from error


def read_text(path):
    """The text of a UTF-8 file; InputError where it cannot be read or is in another encoding."""
    check_readable(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")       # some editors mark it
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 ({one_line(error)}): restore it from a copy, or save it as "
                         "UTF-8") from error


def make_folder(path):
    """The folder, made with its parents where it is not there; InputError where it cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: this folder cannot be made ({error.strerror}); name another one, or fix "
                         "permissions") from error
    return path


def is_case_name(name):
    """Whether a name may become a file name and an entry of a list.

    Nothing that leads to another folder, is hidden, breaks a line or is lost when a list is read: blanks at its ends,
    an `.h5` that lists may carry, bytes that are no UTF-8.
    """
    return bool(name) and name == name.strip() and name.isprintable() and name[0] != "." and ".." not in name and (
        not name.endswith(".h5")) and not any(character in '/\\:*?"<>|' for character in name)


def inside(folder, path):
    """`path`, its folder made; InputError where a link would lead it out of `folder`."""
    path = Path(path)
    if not path.parent.resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(f"{path}: leads out of {folder}, to {path.parent.resolve()}; remove that link, or name the "
                         "folder behind it as the output")
    make_folder(path.parent)
    return path


def save_tensors(path, content):
    """torch.save of tensors, numbers, strings, lists and dicts; InputError for tensors with NaN or infinities."""
    import torch  # here: the prepare scripts and their workers do without it
    if key := not_finite(content):
        raise InputError(f"{path}: not written, since {key} has NaN or infinite values: training diverged; check the "
                         "scans, or start a new run with a lower --lr and another --out; the file's previous version "
                         "is untouched")
    write_aside(path, lambda file: torch.save(content, file))


def not_finite(content):
    """The key of a tensor with NaN or infinite values in nested dicts and lists, or None."""
    import torch
    return next((key for key, value in _leaves(content)
                 if isinstance(value, torch.Tensor) and not torch.isfinite(value).all()), None)


def _leaves(content, key="", above=()):
    """(key, value) of everything in nested dicts and lists, keys joined by dots; ValueError where one holds itself."""
    if isinstance(content, dict | list | tuple):
        if id(content) in above:
            raise ValueError(f"{key} holds itself")
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _leaves(value, f"{key}.{name}" if key else str(name), (*above, id(content)))
    else:
        yield key, content


def _foreign(value):
    """What a checkpoint's value is, in words, where this program writes no such thing; else None."""
    import torch
    if not isinstance(value, torch.Tensor):
        return None if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    if value.device.type != "cpu" or value.layout != torch.strided or value.is_quantized:
        kind = "quantized" if value.is_quantized else value.layout if value.device.type == "cpu" else value.device.type
        return f"a tensor that is {str(kind).removeprefix('torch.')}"
    return None if value.dtype in (torch.float32, torch.float64, torch.int64, torch.bool, torch.uint8) else (
        f"of type {value.dtype}".replace("torch.", ""))


def load_tensors(path, keys=()):
    """What `save_tensors` wrote, on the CPU; nothing in the file is executed.

    InputError if it is damaged (down to a bit: its check sums are compared), is no dict with `keys`, or has tensors
    with NaN or infinities.
    """
    import torch
    check_readable(path)
    try:
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():
                raise zipfile.BadZipFile(f"the check sum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except PermissionError:
        raise Denied(f"{path}: may not be read by this user; fix its permissions (chmod u+r), or run as its "
                     "owner") from None
    except pickle.UnpicklingError as error:     # whose words say how to load it all the same
        raise InputError(f"{path} is no checkpoint of this program: it holds more than tensors and numbers, may run "
                         f"code when it is loaded by other means, and must not be trusted; {RESTORE}") from error
    except Exception as error:      # bytes of anybody's making end in any error
        raise InputError(f"{path} is damaged or no checkpoint ({one_line(error)[:200]}): {RESTORE}") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path} is damaged or no checkpoint (it has no {', '.join(missing)}): {RESTORE}")
    try:
        if strange := next((f"{key} is {kind}" for key, value in _leaves(content) if (kind := _foreign(value))), None):
            raise InputError(f"{path} is no checkpoint of this program ({strange}): {RESTORE}")
        if key := not_finite(content):
            raise InputError(f"{path} is damaged (NaN or infinite values in {key}): {RESTORE}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no checkpoint of this program ({one_line(error)}): {RESTORE}") from error
    return content


RESTORE = "restore the file from a copy, or train again"


def load_weights(module, state, path):
    """Strict load; InputError names the keys that are missing, left over or of another shape."""
    own = module.state_dict()
    state = state if isinstance(state, dict) else {}
    shape = {key: getattr(state.get(key), "shape", None) for key in own}
    wrong = [f"missing {key}" for key in own if key not in state]
    wrong += [f"left over {key}" for key in state if key not in own]
    wrong += [f"{key} is {'no tensor' if shape[key] is None else tuple(shape[key])}, expected {tuple(value.shape)}"
              for key, value in own.items() if key in state and hasattr(value, "shape") and shape[key] != value.shape]
    wrong += [f"{key} is of type {state[key].dtype}, expected {value.dtype}".replace("torch.", "")
              for key, value in own.items() if shape[key] is not None and shape[key] == getattr(value, "shape", None)
              and state[key].dtype != value.dtype]
    if wrong:
        raise InputError(f"{path} does not fit the network of this recipe: {'; '.join(wrong[:4])}"
                         f"{f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''}: was it trained with another "
                         "--network, --method, --num-classes or --in-channels?")
    try:
        module.load_state_dict(state)
    except (AttributeError, KeyError, TypeError, ValueError) as error:      # of a module's extra state
        raise InputError(f"{path} does not fit the method ({one_line(error)}): {RESTORE}") from error
