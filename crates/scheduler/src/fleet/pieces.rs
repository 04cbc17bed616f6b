//! A list that is copied at once: copies share its pieces until one of them changes what is in a piece.

use std::sync::Arc;

/// How many entries a piece has: few enough to be copied when one changes, and many enough that a list has few.
const PIECE: usize = 64;

/// A list in pieces.
#[derive(Debug, Clone)]
pub(super) struct Pieces<T> {
    pieces: Vec<Arc<[T]>>,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T: Clone + Default> Pieces<T> {
    /// Makes it at least so long.
    pub(super) fn lengthen(&mut self, length: usize) {
        let pieces = length.div_ceil(PIECE).max(self.pieces.len());
        self.pieces.resize_with(pieces, || vec![T::default(); PIECE].into());
    }

    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.pieces.get(at / PIECE)?.get(at % PIECE)
    }

    /// An entry to be changed. The copies that share its piece keep what they have.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let at = at as usize;
        Arc::make_mut(self.pieces.get_mut(at / PIECE)?).get_mut(at % PIECE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_what_neither_has_changed() {
        let mut one: Pieces<u32> = Pieces::default();
        assert_eq!(one.get(0), None);
        one.lengthen(3 * PIECE);
        for at in 0..192 {
            *one.get_mut(at).unwrap() = at;
        }
        let mut other = one.clone();
        *other.get_mut(70).unwrap() = 7;
        *one.get_mut(71).unwrap() = 8;
        assert_eq!((one.get(70), other.get(70)), (Some(&70), Some(&7)));
        assert_eq!((one.get(71), other.get(71)), (Some(&8), Some(&71)));
        let is_shared = |at: usize| Arc::ptr_eq(&one.pieces[at], &other.pieces[at]);
        assert_eq!([0, 1, 2].map(is_shared), [true, false, true]);
        one.lengthen(1);
        assert_eq!(one.get(191), Some(&191), "it never gets shorter");
    }
}
