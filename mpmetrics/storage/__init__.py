"""The bytes of a store, and which process may write them.

- ``format`` specifies the bytes.
- ``store`` begins and joins epochs; ``epoch`` is one as a process holds it, ``shared`` its page, ``removals`` its list.
- ``memory`` answers instruments, ``owner`` cells; ``slab`` makes a process's file, ``waiting`` moves values in later.
- ``reader`` reads one slab; ``shapes`` groups the declarations of one name that can be shown together.
- ``fold`` merges the slabs of dead processes into the retired file; ``retire`` computes its contents.
- ``descriptor`` opens files, ``locks`` locks them.
"""
