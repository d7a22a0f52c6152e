"""A scanner's files to network input, and label maps back onto the scanner's grid."""
