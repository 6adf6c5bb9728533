"""What a VIT sample is, how it is read, checked, quarantined and written again."""
