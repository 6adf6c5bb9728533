"""One self-contained HTML file that shows what was chosen, why, and what it bought.

collect.py, gallery.py, boards.py   nouns -> plain values, a stated sample of rows
charts.py                           plain values -> SVG
page.py                             both -> one file: no network, no framework, everything escaped
"""
