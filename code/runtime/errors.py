"""Errors that a user can fix, and their words."""
import errno

WORDS = "out of memory", "can't allocate memory", "not enough memory", "unable to allocate", "cannot allocate memory"
DEBUG = "With --debug, errors come with a traceback."       # for the scripts' --help


class InputError(ValueError):
    """Bad input: the message names the file or option, what was found, what was expected, and the remedy."""


class Denied(InputError):
    """A file that is there and may not be read, by this user or at this moment: no reason to take it for damaged."""


def held_by_another(path, error):
    """What to raise instead of HDF5's `error` of a file that another program has open for writing, or that the file
    system cannot lock; None otherwise.
    """
    if "unable to lock file" not in str(error):
        return None
    if any(f"errno = {number}," in str(error) for number in (errno.EAGAIN, errno.EACCES)):
        return Denied(f"{path}: another program has it open for writing; close it there, and start again")
    return Denied(f"{path}: its file system has no locks, for which HDF5 asks ({one_line(error)[:150]}); start again "
                  "with HDF5_USE_FILE_LOCKING=FALSE in the environment")


def is_out_of_memory(error):
    """Whether an exception is Python's, NumPy's or PyTorch's way to say so."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in WORDS))


def printable(text):
    """Text whose control characters and line breaks, of file names, say, are escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def is_visible(name):
    """Whether a name has letters that can be seen, and nothing else but spaces."""
    return bool(name.strip()) and name.isprintable()


def one_line(error):
    """An error's words on one line, or its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def hours_in_words(hours):
    """'12 hours', '1 hour', '4.5 minutes'."""
    number, unit = (f"{hours:.3g}", "hour") if hours >= 1 else (f"{60 * hours:.2g}", "minute")
    return f"{number} {unit}{'' if number == '1' else 's'}"


def some_of(names, most):
    """'a, b, c, ...': the first of several names."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def counted(number, word):
    """'1 scan', '2 scans'."""
    return f"{number} {word}{'' if number == 1 else 's'}"
