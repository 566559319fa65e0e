"""The bytes of a store and who may touch them.

``format`` is the specification, ``records`` packs what it says. ``store`` finds, begins and joins epochs, ``retire``
and ``fold`` merge what the dead counted, ``removals`` says what is gone. Of a process, ``slab`` is what it writes,
``memory`` binds its cells to that, ``waiting`` keeps what the store has no room for. ``reader`` follows one slab of
another, ``shapes`` sorts what several of them declare under one name. ``descriptor`` and ``locks`` are how files are
opened and locked.
"""
