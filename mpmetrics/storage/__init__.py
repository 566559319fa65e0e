"""The bytes of a store and who may touch them: format, series directory, slabs, leases, folding, the reader.

``format`` is the specification. ``store`` finds, begins and joins epochs. ``directory`` and ``slab`` are the writers of
a process, ``memory`` is what binds an instrument's cells to them. ``reader``, ``retired`` and ``fold`` read, and merge
the dead. ``locks`` is the one user of lock libraries, ``fork`` the one place that handles forks.
"""
