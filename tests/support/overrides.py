"""What our subclasses of libraries' classes override."""


def overridden(owner: type) -> list[str]:
    """List the methods of a class that its libraries know: those that a base class has, too."""
    bases = [base for base in owner.__mro__[1:] if base is not object]
    names = [
        name
        for name, value in vars(owner).items()
        if (callable(value) or isinstance(value, classmethod)) and name != "__init__"
    ]
    return sorted(name for name in names if any(hasattr(base, name) for base in bases))
