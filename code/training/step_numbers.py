"""The numbers of a step: one exchange between the processes, one transfer from the device, read when they are there."""
import torch

from runtime.device import fetch


class StepNumbers:
    """terms: name -> scalar tensor of this process; flags: whole numbers that all processes must know of."""

    def __init__(self, ranks, terms, flags=()):
        self.floating = {name: term.is_floating_point() for name, term in terms.items()}
        values = torch.stack([term.detach().double() for term in terms.values()])
        flags = [values.new_full((1,), flag) for flag in flags]     # a copy from the host would be waited for
        self.rows = ranks.stack(torch.cat([values, *flags]))
        self._fetched = fetch(self.rows)

    def not_finite(self):
        """1.0 if a number of any process is NaN or infinite, else 0.0: a tensor on the device."""
        return 1 - self.rows.isfinite().all().float()

    def read(self):
        """{term: mean over the processes, of whole numbers the sum}, [highest of each flag]; waits for the device."""
        columns = list(zip(*self._fetched().tolist(), strict=True))
        terms = {name: sum(column) / (len(column) if floating else 1)
                 for (name, floating), column in zip(self.floating.items(), columns, strict=False)}
        return terms, [int(max(column)) for column in columns[len(terms):]]
