//! Random numbers from a seed, the same on every machine and in every later version.
//!
//! The generator is xoshiro256++ (Blackman, Vigna), seeded by splitmix64. Logarithms and powers come from `libm`,
//! because the platform's own differ in their last bits, and a simulation must be the same everywhere.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of a seed. `stream` tells apart the streams of one seed, so that drawing more from one does not
    /// change another.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03);
        Self { state: std::array::from_fn(|_| splitmix(&mut mixed)) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number from 0 (included) to 1 (excluded), in steps of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number from 0 (excluded) to 1 (included): one whose logarithm is finite.
    fn positive(&mut self) -> f64 {
        1.0 - self.uniform()
    }

    /// A number from 0 to `bound` (excluded); 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// True so often.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// A number of the normal distribution with mean 0 and deviation 1 (Box, Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(self.positive()));
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// A number of the exponential distribution with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -libm::log(self.positive())
    }

    /// The place of one of these weights, each as often as its part of their sum. 0 when there is none.
    pub fn weighted(&mut self, weights: impl Iterator<Item = f64> + Clone) -> usize {
        let mut left = self.uniform() * weights.clone().sum::<f64>();
        let mut last = 0;
        for (index, weight) in weights.enumerate() {
            last = index;
            if left < weight {
                break;
            }
            left -= weight;
        }
        last
    }

    /// Puts a list into a random order (Fisher, Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            let other = self.below(end as u64 + 1) as usize;
            list.swap(end, other);
        }
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first numbers of xoshiro256++ from the state 1, 2, 3, 4, as its authors' code prints them.
        let mut random = Random { state: [1, 2, 3, 4] };
        let drawn: [u64; 4] = std::array::from_fn(|_| random.bits());
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn a_seed_says_it_all_and_streams_differ() {
        let draw = |seed, stream| Random::new(seed, stream).bits();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn numbers_have_the_moments_of_their_distribution() {
        let mut random = Random::new(7, 0);
        let mut moments = |draw: fn(&mut Random) -> f64| {
            let drawn: Vec<f64> = (0..100_000).map(|_| draw(&mut random)).collect();
            let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
            let square = drawn.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
            (mean, square / drawn.len() as f64)
        };
        for (draw, mean, variance) in [
            (Random::uniform as fn(&mut Random) -> f64, 0.5, 1.0 / 12.0),
            (Random::normal, 0.0, 1.0),
            (Random::exponential, 1.0, 1.0),
            (|random| random.below(10) as f64, 4.5, 8.25),
            (|random| random.weighted([1.0, 0.0, 3.0].into_iter()) as f64, 1.5, 0.75),
        ] {
            let (seen_mean, seen_variance) = moments(draw);
            assert!((seen_mean - mean).abs() < 0.02, "{seen_mean} for {mean}");
            assert!((seen_variance - variance).abs() < 0.03 * variance.max(1.0), "{seen_variance}");
        }
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut list: Vec<u32> = (0..100).collect();
        Random::new(1, 0).shuffle(&mut list);
        assert_ne!(list, (0..100).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
    }
}
