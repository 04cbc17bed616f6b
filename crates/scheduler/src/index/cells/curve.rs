//! The curve on which nodes lie by their figures (Z-order: the bits of the figures in turn), so that what lies together
//! on it costs alike.

use super::Point;

/// Where a point lies on the curve.
pub(super) fn code(point: &Point) -> u64 {
    let one = 1.0_f32.to_bits();
    // Of a number that is not negative the bits are about its logarithm: eleven of them tell a doubling apart.
    let step = |figure: &f32| u64::from((figure.to_bits().saturating_sub(one) >> 12).min(0xffff));
    point.iter().fold(0, |code, figure| code << 1 | every_fourth(step(figure)))
}

/// The lowest 16 bits, three places between any two of them.
fn every_fourth(bits: u64) -> u64 {
    let bits = (bits | bits << 24) & 0x0000_00ff_0000_00ff;
    let bits = (bits | bits << 12) & 0x000f_000f_000f_000f;
    let bits = (bits | bits << 6) & 0x0303_0303_0303_0303;
    (bits | bits << 3) & 0x1111_1111_1111_1111
}
