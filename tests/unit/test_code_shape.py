"""The length of the product's functions and modules."""

from testkit.code_shape import MAX_FUNCTION_LINES, MAX_MODULE_LINES, CodeShape, Piece, measure, report


def test_no_function_or_module_of_the_product_is_too_long() -> None:
    """A function has at most 40 lines and a module at most 400."""
    shape = measure()
    assert shape.too_long() == [], report(shape)


def test_pieces_above_a_limit_are_reported_with_their_length() -> None:
    """The report lists the longest first, and nothing that is within its limit."""
    functions = [Piece("a.py:1 short", MAX_FUNCTION_LINES), Piece("a.py:50 long", MAX_FUNCTION_LINES + 1)]
    modules = [Piece("a.py", MAX_MODULE_LINES), Piece("b.py", MAX_MODULE_LINES + 1)]
    summary, *lines = report(CodeShape(functions, modules)).splitlines()
    assert summary == "2 functions: median 40.5, 90th percentile 40.9, longest 41 lines"
    assert lines == [" 401 lines  b.py", "  41 lines  a.py:50 long"]
