"""Charts as SVG, pure functions of numbers: what the report shows and what experiments leave as files.

marks.py       rows of marks, a map of clusters, intervals
curves.py      curves, rows with ranges, points
trade_off.py   cost against score, with the front at each budget
heat.py        shaded tables
figures.py     the results of an experiment -> its figures
files.py       a chart -> an SVG file that stands alone
"""
