"""PDF files as bytes, written by hand: valid structure, hostile content."""

import zlib
from collections.abc import Sequence

TEXT = b"BT /F1 12 Tf 72 700 Td (A line of text.) Tj ET\n"


def obj(number: int, body: bytes) -> bytes:
    return b"%d 0 obj\n%s\nendobj\n" % (number, body)


def stream(number: int, content: bytes, more: bytes = b"", *, packed: int = 0) -> bytes:
    """A stream object, compressed `packed` times."""
    for _ in range(packed):
        content = zlib.compress(content, 9)
    filters = b"/Filter [%s]" % b" ".join([b"/FlateDecode"] * packed) if packed else b""
    head = b"<< /Length %d %s %s >>" % (len(content), filters, more)
    return obj(number, head + b"\nstream\n" + content + b"\nendstream")


def file_of(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A file of objects numbered from 1, with a table of their places."""
    data, places = b"%PDF-1.5\n", list[int]()
    for one in objects:
        places.append(len(data))
        data += one
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return b"%sxref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R %s >>\n" % (
        data, size, table, size, trailer,
    ) + b"startxref\n%d\n%%%%EOF\n" % len(data)  # fmt: skip


def pages_of(
    contents: Sequence[bytes], *, packed: int = 0, forms: Sequence[bytes] = (), trailer: bytes = b""
) -> bytes:
    """A file with one page for each content; `forms` are drawn as /X0, /X1, ..."""
    first = 4
    form_first = first + 2 * len(contents)
    kids = b" ".join(b"%d 0 R" % (first + 2 * i) for i in range(len(contents)))
    drawn = b" ".join(b"/X%d %d 0 R" % (i, form_first + i) for i in range(len(forms)))
    resources = b"/Resources << /Font << /F1 3 0 R >> /XObject << %s >> >>" % drawn
    objects = [
        obj(1, b"<< /Type /Catalog /Pages 2 0 R >>"),
        obj(2, b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(contents), kids)),
        obj(3, b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"),
    ]
    for i, content in enumerate(contents):
        number = first + 2 * i
        page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] %s /Contents %d 0 R >>"
        objects.append(obj(number, page % (resources, number + 1)))
        objects.append(stream(number + 1, content, packed=packed))
    shape = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] " + resources
    objects += [stream(form_first + i, form, shape) for i, form in enumerate(forms)]
    return file_of(objects, trailer)


def encrypted(handler: bytes) -> bytes:
    """A file that names an encryption handler."""
    return pages_of([TEXT], trailer=b"/ID [(a) (a)] /Encrypt << %s >>" % handler)
