//! Text as people type it in a hurry.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

/// The text with one random edit per 20 characters: swap, delete, insert or replace.
pub fn misspelled(text: &str, rng: &mut Pcg64Mcg) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..chars.len().div_ceil(20) {
        let at = rng.random_range(0..chars.len().max(1));
        let other = chars.get(rng.random_range(0..chars.len().max(1))).copied().unwrap_or('x');
        match rng.random_range(0..4) {
            0 if at + 1 < chars.len() => chars.swap(at, at + 1),
            1 if chars.len() > 1 => drop(chars.remove(at)),
            2 => chars.insert(at.min(chars.len()), other),
            _ => {
                if let Some(place) = chars.get_mut(at) {
                    *place = other;
                }
            }
        }
    }
    chars.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn typos_change_about_one_character_in_twenty() {
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        let text = "the quick brown fox jumps over the lazy dog and runs away";
        let changed = misspelled(text, &mut rng);
        assert_ne!(changed, text);
        assert!(changed.chars().count().abs_diff(text.chars().count()) <= 3);
        assert_eq!(misspelled("", &mut rng), "");
        assert!(misspelled("a", &mut rng).chars().count() <= 2);
    }
}
