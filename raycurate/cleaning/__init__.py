"""What makes two rows the same, or nearly: prints of texts and images, and who of a group stays. No Ray.

`words.py` and `pictures.py` make a row's prints, `alike.py` compares them, `copies.py` says which row of a group stays,
`overlap.py` finds rows that tell of a test set.
"""
