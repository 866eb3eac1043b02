"""Makes tests/data/images/ and tests/goldens/images.json: what Pillow gives for resizing and decoding.

    pip install pillow==13.0.0 numpy==2.4.6
    python tests/reference/make_image_goldens.py

The resize sources are an integer formula (`source`, the same in tests/core/image_resize_test.cpp), so no pixels are stored.
"""

import hashlib
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageOps

TESTS = Path(__file__).resolve().parent.parent
IMAGES = TESTS / "data" / "images"
FORMATS = IMAGES / "formats"
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def sha256(image):
    return hashlib.sha256(image.tobytes()).hexdigest()


def splitmix64(x):
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def source(width, height):
    """Checks of 8x8 pixels: gradient in every other one, else noise, half of it black and white (so that sums clip)."""
    i = np.arange(width * height * 3, dtype=np.uint64)
    noise = splitmix64(i)
    c, x, y = i % np.uint64(3), i // np.uint64(3) % np.uint64(width), i // np.uint64(3 * width)
    gradient = (x * np.uint64(5) + y * np.uint64(3) + c * np.uint64(85)) & np.uint64(255)
    hard = np.where(noise & np.uint64(128), np.uint64(255), np.uint64(0))
    rough = np.where(noise & np.uint64(256), hard, noise & np.uint64(255))
    smooth = ((x >> np.uint64(3)) + (y >> np.uint64(3))) & np.uint64(1)
    return Image.fromarray(np.where(smooth, gradient, rough).astype(np.uint8).reshape(height, width, 3))


def resize_cases():
    rng = random.Random(20240607)
    cases = []
    for name, resample in FILTERS.items():
        sizes = [((1, 1), (1, 1)), ((1, 1), (64, 33)), ((37, 23), (37, 23)), ((37, 23), (37, 50)), ((37, 23), (50, 23)),
                 ((37, 23), (37, 9)), ((37, 23), (9, 23)), ((1, 200), (7, 1)), ((200, 1), (1, 7)), ((1207, 3), (1, 2)),
                 ((2, 901), (300, 1)), ((37, 23), (448, 448)), ((640, 480), (448, 448)), ((300, 500), (448, 896)),
                 ((896, 448), (448, 448)), ((500, 333), (1120, 746))]
        for _ in range(200):  # down in both directions, or equal in one
            w, h = rng.randint(1, 160), rng.randint(1, 160)
            sizes.append(((w, h), (rng.randint(1, w), rng.randint(1, h))))
        for _ in range(200):  # up
            w, h = rng.randint(1, 60), rng.randint(1, 60)
            sizes.append(((w, h), (rng.randint(w, 160), rng.randint(h, 160))))
        for _ in range(60):  # on both sides of the border where Pillow 13 takes the height first
            w, h = rng.randint(20, 120), rng.randint(60, 160)
            width = rng.randint(w - 15, w - 1)
            sizes.append(((w, h), (width, h - 2 * (w - width) + rng.randint(-1, 1))))
        for _ in range(40):  # one of each
            w, h = rng.randint(1, 100), rng.randint(1, 100)
            sizes.append(((w, h), (rng.randint(1, w), rng.randint(h, 160))))
        for (w, h), target in sizes:
            cases.append([name, w, h, *target, sha256(source(w, h).resize(target, resample))])
    return cases


def scene(width, height):
    """Gradient background, frames, discs and rows of dashes that look like lines of text; RGB."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    background = np.stack([255 * x // width, 255 * y // height, 255 - 255 * x // width], axis=-1).astype(np.uint8)
    image = Image.fromarray(background)
    draw = ImageDraw.Draw(image)
    unit = max(min(width, height) // 20, 1)
    draw.rectangle([2 * unit, 2 * unit, width // 2, height // 2], fill=(250, 250, 245), outline=(20, 20, 20))
    rng = random.Random(width * 10007 + height)
    for line in range(3 * unit, height // 2 - unit, max(unit, 2)):
        at = 3 * unit
        while at < width // 2 - 2 * unit:
            length = rng.randint(1, 2 * unit)
            draw.rectangle([at, line, min(at + length, width // 2 - unit), line + unit // 3], fill=(30, 30, 60))
            at += length + max(unit // 2, 1)
    draw.ellipse([width // 2, height // 2, width - 2 * unit, height - 2 * unit], fill=(200, 40, 40), outline=(0, 0, 0))
    draw.line([0, height - 1, width - 1, 0], fill=(0, 160, 80), width=max(unit // 3, 1))
    return image


def exif(orientation, order="<", kind=3):
    """A TIFF structure with two entries, the orientation as SHORT (3) or LONG (4)."""
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHI", 0x010F, 2, 4) + b"abc\0" + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return head + struct.pack(order + "IH", 8, 2) + entries + struct.pack(order + "I", 0)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def write_png(path, samples, depth, colour, interlaced=False, extra=b"", last=b""):
    """PNG of `samples` [H, W, channels] as they are; Pillow itself can't write all of these kinds."""
    height, width, channels = samples.shape
    rows = []
    for x0, y0, dx, dy in PASSES if interlaced else [(0, 0, 1, 1)]:
        for row in samples[y0::dy, x0::dx].reshape(-1, samples[:, x0::dx].shape[1] * channels):
            bits = (row[:, None].astype(np.int64) >> np.arange(depth - 1, -1, -1)) & 1
            rows.append(b"\0" + np.packbits(bits.astype(np.uint8)).tobytes() if row.size else b"")
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = zlib.compress(b"".join(rows), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data[:99]) +
                     chunk(b"IDAT", data[99:]) + last + chunk(b"IEND", b""))


def make_png_formats(picture):
    height, width, _ = picture.shape
    fine = picture.astype(np.int64) * 257 + np.arange(width)[:, None]  # 16 bits that aren't a byte twice
    fine = np.minimum(fine, 65535)
    grey = picture[..., 1:2]
    alpha = (np.add.outer(np.arange(height) * 11, np.arange(width) * 7) % 256)[..., None]
    clear = np.concatenate([picture, alpha], axis=-1)
    for interlaced in (False, True):
        tail = "_interlaced.png" if interlaced else ".png"
        for depth in (1, 2, 4, 8):
            write_png(FORMATS / f"grey{depth}{tail}", grey >> (8 - depth), depth, 0, interlaced)
            palette = chunk(b"PLTE", bytes((i * k + 40 * c) % 256 for i in range(1 << depth) for c, k in enumerate((37, 91, 5))))
            write_png(FORMATS / f"palette{depth}{tail}", grey >> (8 - depth), depth, 3, interlaced, palette)
        write_png(FORMATS / f"grey16{tail}", fine[..., :1] // 130, 16, 0, interlaced)  # on both sides of 255
        write_png(FORMATS / f"rgb8{tail}", picture, 8, 2, interlaced)
        write_png(FORMATS / f"rgb16{tail}", fine, 16, 2, interlaced)
        write_png(FORMATS / f"grey_alpha8{tail}", clear[..., 2:], 8, 4, interlaced)
        write_png(FORMATS / f"grey_alpha16{tail}", np.concatenate([fine[..., :1], alpha * 257], -1), 16, 4, interlaced)
        write_png(FORMATS / f"rgba8{tail}", clear, 8, 6, interlaced)
        write_png(FORMATS / f"rgba16{tail}", np.concatenate([fine, alpha * 257], -1), 16, 6, interlaced)
    short = chunk(b"PLTE", bytes(range(60, 150)))  # indices beyond it are black
    write_png(FORMATS / "palette_short.png", grey, 8, 3, extra=short)
    write_png(FORMATS / "palette_trns.png", grey >> 4, 4, 3, extra=chunk(b"PLTE", bytes(range(48))) + chunk(b"tRNS", bytes(16)))
    write_png(FORMATS / "grey_trns.png", grey, 8, 0, extra=chunk(b"tRNS", b"\0\x80"))
    write_png(FORMATS / "rgb_trns.png", picture, 8, 2, extra=chunk(b"tRNS", b"\0\x10\0\x20\0\x30"))
    # Wrong gamma and a colour profile: neither may change a pixel.
    colours = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"iCCP", b"p\0\0" + zlib.compress(b"no profile"))
    write_png(FORMATS / "rgb_colour_chunks.png", picture, 8, 2, extra=colours)
    write_png(FORMATS / "exif6.png", picture, 8, 2, extra=chunk(b"eXIf", exif(6)))
    write_png(FORMATS / "exif8_after_data.png", picture, 8, 2, last=chunk(b"eXIf", exif(8, ">")))
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<rdf tiff:Orientation=\"3\"/>"
    write_png(FORMATS / "xmp3.png", picture, 8, 2, extra=chunk(b"iTXt", xmp))


def make_other_formats(picture):
    rgb = Image.fromarray(picture)
    height, width, _ = picture.shape
    alpha = (np.add.outer(np.arange(height) * 11, np.arange(width) * 7) % 256).astype(np.uint8)
    alpha[: height // 3] = 0  # colours under full transparency
    rgba = Image.fromarray(np.concatenate([picture, alpha[..., None]], -1))
    photo = scene(61, 47)
    for subsampling, name in enumerate(("444", "422", "420")):
        photo.save(FORMATS / f"jpeg_{name}.jpg", subsampling=subsampling, quality=85)
        photo.save(FORMATS / f"jpeg_{name}_progressive.jpg", subsampling=subsampling, quality=85, progressive=True)
    photo.convert("L").save(FORMATS / "jpeg_grey.jpg")
    photo.save(FORMATS / "jpeg_rgb.jpg", keep_rgb=True)
    photo.save(FORMATS / "jpeg_restart.jpg", restart_marker_rows=1)
    photo.save(FORMATS / "jpeg_two_pictures.jpg", format="MPO", save_all=True, append_images=[photo.rotate(180)])
    cmyk = Image.fromarray(np.concatenate([np.asarray(photo), np.asarray(photo.convert("L"))[..., None]], -1), "CMYK")
    cmyk.save(FORMATS / "jpeg_cmyk.jpg", quality=90)
    Image.open(FORMATS / "jpeg_cmyk.jpg").convert("RGB").save(FORMATS / "jpeg_cmyk_expected.png", optimize=True)
    for orientation in range(1, 9):
        order, kind = "<>"[orientation % 2], 3 + orientation // 2 % 2
        rgb.save(FORMATS / f"exif{orientation}.jpg", exif=b"Exif\0\0" + exif(orientation, order, kind))
    xmp = b"<tiff:Orientation>7</tiff:Orientation>"
    rgb.save(FORMATS / "xmp7.jpg", xmp=xmp)
    rgb.save(FORMATS / "exif5_xmp7.jpg", exif=b"Exif\0\0" + exif(5), xmp=xmp)
    rgb.save(FORMATS / "exif6.webp", lossless=True, exif=exif(6))
    rgb.save(FORMATS / "xmp7.webp", lossless=True, xmp=xmp)
    for name, image in (("rgb", rgb), ("rgba", rgba)):
        image.save(FORMATS / f"webp_lossy_{name}.webp", quality=80)
        image.save(FORMATS / f"webp_lossless_{name}.webp", lossless=True, exact=True)
    rgb.save(FORMATS / "animated.png", save_all=True, append_images=[rgb.rotate(180)])
    rgb.save(FORMATS / "animated.webp", save_all=True, append_images=[rgb.rotate(180)])


def make_pictures():
    """The pictures that the model parity tests use."""
    scene(300, 500).save(IMAGES / "portrait.jpg", quality=85)
    scene(640, 400).save(IMAGES / "landscape.jpg", quality=85)
    scene(448, 448).save(IMAGES / "square.png", optimize=True)
    scene(37, 23).save(IMAGES / "tiny_37x23.png", optimize=True)
    scene(150, 1207).save(IMAGES / "tall_150x1207.png", optimize=True)
    scene(896, 448).save(IMAGES / "exact_grid.png", optimize=True)
    scene(320, 240).convert("L").save(IMAGES / "grey.png", optimize=True)
    rgba = scene(240, 320)
    rgba.putalpha(rgba.getchannel("G"))
    rgba.save(IMAGES / "rgba.png", optimize=True)
    scene(320, 200).quantize(32, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(IMAGES / "palette.png")
    deep = np.asarray(scene(200, 150).convert("L")).astype(np.uint16) * 2
    Image.fromarray(deep).save(IMAGES / "grey16.png", optimize=True)
    scene(400, 250).save(IMAGES / "exif_rotated.jpg", quality=85, exif=b"Exif\0\0" + exif(6))


def decode_cases():
    cases = {}
    for path in sorted(p for p in IMAGES.rglob("*") if p.suffix in (".png", ".jpg", ".webp")):
        if path.name in ("animated.webp", "jpeg_cmyk.jpg"):  # refused; compared with a tolerance
            continue
        with Image.open(path) as image:
            rgb = ImageOps.exif_transpose(image).convert("RGB")
        cases[path.relative_to(IMAGES).as_posix()] = [rgb.width, rgb.height, sha256(rgb)]
    return cases


def main():
    if PIL.__version__ != "13.0.0":
        raise SystemExit(f"these goldens are Pillow 13.0.0's, not {PIL.__version__}'s")
    FORMATS.mkdir(parents=True, exist_ok=True)
    picture = np.asarray(scene(37, 23))
    make_png_formats(picture)
    make_other_formats(picture)
    make_pictures()
    goldens = {"pillow": PIL.__version__, "decode": decode_cases(), "resize": resize_cases()}
    lines = [f'"pillow": {json.dumps(goldens["pillow"])}']
    lines.append('"decode": {\n' + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in goldens["decode"].items()) + "\n}")
    lines.append('"resize": [\n' + ",\n".join(json.dumps(case) for case in goldens["resize"]) + "\n]")
    (TESTS / "goldens").mkdir(exist_ok=True)
    (TESTS / "goldens" / "images.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
