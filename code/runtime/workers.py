"""Worker processes that end with the process that started them, also where that one is killed."""
import multiprocessing
import os
import threading


def end_with_parent():
    """To be called first in a worker process: it ends when its parent has ended, however that ended."""
    parent = multiprocessing.parent_process()

    def end():
        parent.join()
        os._exit(1)
    threading.Thread(target=end, daemon=True).start()
