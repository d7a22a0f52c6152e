"""Files, errors, records, devices and processes: what every other folder stands on."""
