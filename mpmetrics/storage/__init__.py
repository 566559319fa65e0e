"""The bytes of a store and who may touch them.

``format`` is the specification. ``store`` begins and joins epochs, ``epoch`` is one as a process has it, ``shared`` its
page; ``retire`` and ``fold`` merge what the dead counted, ``removals`` says what is gone. Of a process, ``memory`` is
what instruments call and ``owner`` what cells call, ``slab`` is what it writes, ``waiting`` keeps what the store has no
room for, ``log`` says so. ``reader`` follows one slab of another, ``shapes`` sorts what several of them declare under
one name. ``descriptor`` and ``locks`` are how files are opened and locked.
"""
