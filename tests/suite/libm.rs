//! Latents are pinned by libm's functions, which have faster forms here: the same to the last bit.

use ganforge::random::{angle, cos_sin, log};

/// Every angle there is.
#[test]
fn cosines_and_sines_are_libms() {
    for word in 0..1u32 << 24 {
        let x = angle(word << 8);
        let (cos, sin) = cos_sin(x);
        let same = cos.to_bits() == libm::cosf(x).to_bits() && sin.to_bits() == libm::sinf(x).to_bits();
        assert!(same, "{x:e}: {cos:e} {sin:e}");
    }
}

/// Every float that has the exponent of 1/2 or 1/4, and some of all others.
#[test]
fn logarithms_are_libms() {
    let others = (0x2f80_0000..=0x3f80_0000).step_by(97);
    for bits in (0x3e80_0000..=0x3f80_0000).chain(others) {
        let x = f32::from_bits(bits);
        assert_eq!(log(x).to_bits(), libm::logf(x).to_bits(), "{x:e}");
    }
}
