"""Makes progressive.jpg: a JPEG file in several scans that is wider than what is decoded as a whole, of two halves.

pip install pillow==13.0.0 && python3 progressive.py
"""

from PIL import Image

width, height = 16500, 32
image = Image.new("RGB", (width, height), (30, 60, 90))
image.paste((200, 180, 160), (width // 2, 0, width, height))
image.save("progressive.jpg", quality=75, progressive=True, optimize=True)
