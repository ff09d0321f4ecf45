"""`peftbench data prepare`: the tasks of VTAB-1k on disk, from their original sources or from a copy that is shared.

`sources.py` says where each comes from; `readers/` holds one file a format; `drawing.py` says which images are drawn;
`task_folder.py` writes the folder. Nothing here needs torch, and no archive is ever unpacked to disk.
"""
