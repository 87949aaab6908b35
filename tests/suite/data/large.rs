//! Images that would take too much memory as a whole, and the formats beside the most usual ones.

use super::*;

/// A colour image that changes slowly: what is read at a smaller scale differs little.
fn slopes(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| slope(x, y, width, height))
}

fn slope(x: u32, y: u32, width: u32, height: u32) -> Rgb<u8> {
    Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, 90])
}

/// A PNG file of any size, made row by row.
fn rows(width: u32, height: u32, pixel: impl Fn(u32, u32) -> Rgb<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fastest);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    for y in 0..height {
        let row: Vec<u8> = (0..width).flat_map(|x| pixel(x, y).0).collect();
        stream.write_all(&row).unwrap();
    }
    stream.finish().unwrap();
    drop(writer);
    bytes
}

fn assert_near(ours: &[u8], theirs: &[u8], most: u8, what: &str) {
    let furthest = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(ours.len() == theirs.len() && furthest <= most, "{what}: {furthest}");
}

fn central_square(image: &RgbImage) -> RgbImage {
    let side = image.width().min(image.height());
    let (left, top) = ((image.width() - side) / 2, (image.height() - side) / 2);
    image::imageops::crop_imm(image, left, top, side, side).to_image()
}

#[test]
fn a_png_of_ninety_million_pixels_is_read() {
    let data = decode(&rows(10_000, 9_000, |x, y| slope(x, y, 10_000, 9_000)), 32, 3);
    assert_eq!(data.report.sizes.into_iter().collect::<Vec<_>>(), [((10_000, 9_000), 1)]);
    let small = decode(&encoded(slopes(1_000, 900), ImageFormat::Png), 32, 3);
    assert_near(&data.pixels, &small.pixels, 2, "ten times the size");
}

/// As a whole they would take 630 and 324 MB.
#[test]
#[cfg(target_os = "linux")]
fn large_images_take_little_memory() {
    struct Slopes;
    impl image::GenericImageView for Slopes {
        type Pixel = Rgb<u8>;
        fn dimensions(&self) -> (u32, u32) {
            (12_000, 9_000)
        }
        fn get_pixel(&self, x: u32, y: u32) -> Rgb<u8> {
            slope(x, y, 12_000, 9_000)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.png"), rows(15_000, 14_000, |_, y| slope(0, y, 15_000, 14_000))).unwrap();
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg).encode_image(&Slopes).unwrap();
    fs::write(dir.path().join("b.jpg"), jpeg).unwrap();
    const KIB: &str = "120000";
    let limited = ["-c", "ulimit -d \"$0\" && exec \"$@\"", KIB, env!("CARGO_BIN_EXE_gan-train"), "data", "--json"];
    let output = std::process::Command::new("sh").args(limited).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["used"], &report["too_large"]), (&2.into(), &serde_json::json!([])), "{report}");
}

/// What is wider than the limit of old is read in parts: of what it was cut from, the same pixels.
#[test]
fn what_is_read_in_parts_is_the_central_square() {
    let wide = scene(17_000, 121);
    let square = central_square(&wide);
    for (name, format) in [("row by row", ImageFormat::Png), ("as a whole", ImageFormat::Bmp)] {
        let bytes = encoded(wide.clone(), format);
        for channels in [1, 3] {
            let (large, cut) = (decode(&bytes, 64, channels), decode(&encoded(square.clone(), ImageFormat::Png), 64, channels));
            assert_eq!(large.pixels, cut.pixels, "{name}, {channels} channels");
            assert_eq!((large.report.colour, large.report.sizes.keys().next()), (1, Some(&(17_000, 121))));
        }
    }
    // So small that squares of 12 pixels are averaged.
    let tall = slopes(192, 17_000);
    let (large, cut) = (
        decode(&encoded(tall.clone(), ImageFormat::Png), 8, 3),
        decode(&encoded(central_square(&tall), ImageFormat::Png), 8, 3),
    );
    assert_near(&large.pixels, &cut.pixels, 1, "averages");
    let clear = RgbaImage::from_pixel(17_000, 40, Rgba([0, 100, 255, 128]));
    let pixels = decode(&encoded(clear, ImageFormat::Png), 4, 3).pixels;
    assert_eq!((pixels[0], pixels[16], pixels[32]), (127, 177, 255), "over white");
}

#[test]
fn a_wide_jpeg_is_read_at_a_smaller_scale_and_turned() {
    let wide = slopes(17_000, 1_000);
    let bytes = encoded(wide.clone(), ImageFormat::Jpeg);
    for size in [32, 200, 600] {
        let (large, cut) = (decode(&bytes, size, 3), decode(&encoded(central_square(&wide), ImageFormat::Png), size, 3));
        assert_near(&large.pixels, &cut.pixels, 8, &format!("at {size} pixels"));
    }
    let grey = image::imageops::grayscale(&wide);
    assert_eq!(decode(&encoded(grey, ImageFormat::Jpeg), 32, 3).report.grey, 1);
    let turned = decode(&quarter_turned(&bytes), 32, 3);
    assert_eq!(turned.report.sizes.keys().next(), Some(&(1_000, 17_000)));
    let plain = decode(&bytes, 32, 3);
    // A quarter clockwise: what was the left column, from below, is the first row.
    let row: Vec<u8> = (0..32).map(|x| turned.pixels[1024 + x]).collect();
    let column: Vec<u8> = (0..32).map(|x| plain.pixels[1024 + (31 - x) * 32]).collect();
    assert_near(&row, &column, 2, "turned");
    assert!(reason(&bytes[..bytes.len() / 2]).contains("ends early"));
}

/// Halves of two colours: the square in the middle has both.
fn assert_halves(bytes: &[u8], size: usize, what: &str) {
    let pixels = decode(bytes, size, 3).pixels;
    for (plane, (left, right)) in pixels.chunks(size * size).zip([(30u8, 200u8), (60, 180), (90, 160)]) {
        for row in plane.chunks(size) {
            assert_near(&[row[1], row[size - 2]], &[left, right], 3, what);
        }
    }
}

/// A PNG file whose rows come in seven passes (Adam7).
fn interlaced(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let mut rows = Vec::new();
    let passes = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
    for [left, top, right, down] in passes {
        for y in (top..height).step_by(down as usize) {
            rows.push(0); // no filter
            rows.extend((left..width).step_by(right as usize).flat_map(|x| pixel(x, y)));
        }
    }
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&rows).unwrap();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 1]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [(b"IHDR", header), (b"IDAT", packed.finish().unwrap()), (b"IEND", vec![])] {
        let mut sum = flate2::Crc::new();
        sum.update(kind);
        sum.update(&content);
        let length = (content.len() as u32).to_be_bytes();
        file.extend([&length[..], kind, &content, &sum.sum().to_be_bytes()].concat());
    }
    file
}

#[test]
fn what_appears_bit_by_bit_is_read_as_a_whole() {
    let progressive = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/progressive.jpg")).unwrap();
    assert_halves(&progressive, 8, "an eighth");
    assert_halves(&progressive, 32, "as it is");
    let halves = interlaced(17_000, 32, |x, _| if x < 8_500 { [30, 60, 90] } else { [200, 180, 160] });
    assert_halves(&halves, 8, "interlaced");
    let small = interlaced(33, 32, |x, y| [(x * 7) as u8, (y * 7) as u8, 9]);
    let plain = RgbImage::from_fn(33, 32, |x, y| Rgb([(x * 7) as u8, (y * 7) as u8, 9]));
    assert_eq!(decode(&small, 32, 3).pixels, decode(&encoded(plain, ImageFormat::Png), 32, 3).pixels);
}

#[test]
fn what_is_too_large_is_told_so_with_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut gif = encoded(scene(4, 4), ImageFormat::Gif);
    gif[6..10].fill(0xff);
    let mut bmp = encoded(scene(4, 4), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&30_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&30_000u32.to_le_bytes());
    for (name, bytes) in [("a.gif", gif), ("b.bmp", bmp), ("c.png", png(1)), ("d.png", png(2)), ("e.jpg", b"text".to_vec())] {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    fs::write(dir.path().join("f.png"), png(3)).unwrap();
    let report = open(dir.path(), 8, 1).unwrap().report;
    assert_eq!((report.used, report.broken.len(), report.too_large.len()), (3, 1, 2));
    let text = report.to_string();
    for part in [
        "1 broken left out:\n  e.jpg",
        "2 too large left out:\n  a.gif: 65,535×65,535 pixels; the limit is 65,535 pixels a side and 1,073,741,824 in all",
        "b.bmp: it takes 2,700,000,000 bytes as a whole, which this kind of BMP needs; the limit is 1,073,741,824",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    fs::remove_file(dir.path().join("c.png")).unwrap();
    fs::remove_file(dir.path().join("d.png")).unwrap();
    assert!(complaint(dir.path(), 8, 1).contains("3 of 4 images are broken or too large: e.jpg"));
}

#[test]
fn tiff_tga_qoi_and_netpbm_are_read() {
    let image = scene(16, 16);
    let planes: Vec<u8> = (0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel.0[channel])).collect();
    for (name, format) in [
        ("a.tif", ImageFormat::Tiff),
        ("a.TIFF", ImageFormat::Tiff),
        ("a.tga", ImageFormat::Tga),
        ("a.qoi", ImageFormat::Qoi),
        ("a.ppm", ImageFormat::Pnm),
        ("a.pnm", ImageFormat::Pnm),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), encoded(image.clone(), format)).unwrap();
        assert_eq!(open(dir.path(), 16, 3).unwrap().pixels, planes, "{name} is lossless");
    }
    let deep = image::ImageBuffer::<Luma<u16>, _>::from_pixel(4, 4, Luma([0x8000]));
    assert_eq!(decode(&encoded(deep, ImageFormat::Tiff), 4, 3).pixels, [128; 48]);
    let light = image::Rgb32FImage::from_pixel(4, 4, Rgb([40.0, 0.5, 0.0]));
    assert!(reason(&encoded(light, ImageFormat::Tiff)).contains("floating-point numbers"));
    let tiff = encoded(scene(64, 64), ImageFormat::Tiff);
    assert!(reason(&tiff[..tiff.len() / 2]).contains("broken TIFF"));
}

#[test]
fn other_files_are_named_by_kind() {
    let dir = tempfile::tempdir().unwrap();
    let others = ["a.txt", "b.TXT", "c.heic", "LICENSE", "d.tar.gz", "a.averylongending", ".hidden", "e.txt"];
    others.iter().for_each(|name| fs::write(dir.path().join(name), "x").unwrap());
    assert!(complaint(dir.path(), 8, 1).contains("no images found; 7 other files passed over: 3 .txt, 2 without an ending, "));
    fs::write(dir.path().join("a.png"), png(1)).unwrap();
    let report = open(dir.path(), 8, 1).unwrap().report;
    assert!(
        report.to_string().ends_with("; 7 other files passed over: 3 .txt, 2 without an ending, 1 .gz, 1 .heic"),
        "{report}"
    );
    ["f.1", "f.2", "f.3"].iter().for_each(|name| fs::write(dir.path().join(name), "x").unwrap());
    let report = open(dir.path(), 8, 1).unwrap().report;
    assert!(
        report.to_string().ends_with("10 other files passed over: 3 .txt, 2 without an ending, 1 .1, 1 .2, 1 .3, 2 more kinds")
    );
    assert_eq!((report.kinds_ignored[".gz"], report.kinds_ignored.values().sum::<usize>()), (1, report.ignored));
}
