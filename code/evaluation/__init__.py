"""From a trained run to its table row: inference, metrics, tables, pictures."""
