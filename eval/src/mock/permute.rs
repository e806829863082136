//! `world permute`: another world from a given one, for "does the router learn, or did it know?". Specialists are swapped
//! (each family gets another family's competence) and sizes reshuffled inside each family; names, prices and latencies stay.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::world::World;

/// The permuted world. Families are the models whose names agree up to the last `-`, where there are at least two of them.
pub fn permute(world: &World, seed: u64) -> World {
    let mut rng = Pcg64::seed_from_u64(seed);
    let mut families: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, model) in world.models.iter().enumerate() {
        let family = model.name.rsplit_once('-').map_or(model.name.as_str(), |(family, _)| family);
        families.entry(family).or_default().push(i);
    }
    // Only families of the same size can take each other's place.
    let mut by_size: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
    for members in families.into_values().filter(|members| members.len() > 1) {
        by_size.entry(members.len()).or_default().push(members);
    }
    // TOML integers have 63 bits.
    let mut permuted = World { seed: (world.seed ^ seed.rotate_left(32)) & i64::MAX as u64, ..world.clone() };
    for families in by_size.values() {
        let sources = derangement(families.len(), &mut rng);
        for (family, source) in families.iter().zip(sources) {
            let mut donors = families[source].clone();
            donors.shuffle(&mut rng);
            for (to, from) in family.iter().zip(donors) {
                permuted.models[*to].competence = world.models[from].competence.clone();
            }
        }
    }
    permuted
}

/// A random order of 0..n in which nothing keeps its place (the order itself where n < 2).
fn derangement(n: usize, rng: &mut Pcg64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    // About e tries on average; n < 2 has none.
    while n > 1 && order.iter().enumerate().any(|(i, j)| i == *j) {
        order.shuffle(rng);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The family that is best at `domain`.
    fn specialist(world: &World, domain: &str) -> String {
        let specialists = world.models.iter().filter(|model| model.name != "qwen-max");
        let best = specialists.max_by(|a, b| a.competence[domain].total_cmp(&b.competence[domain])).unwrap();
        best.name.rsplit_once('-').unwrap().0.to_string()
    }

    #[test]
    fn every_specialist_moves_and_nothing_is_lost() {
        let world = World::load(None).unwrap();
        for seed in 0..20 {
            let permuted = permute(&world, seed);
            for domain in ["math", "code", "medicine", "writing"] {
                assert_ne!(specialist(&permuted, domain), specialist(&world, domain), "seed {seed}, {domain}");
            }
            let rows = |world: &World| {
                let mut rows: Vec<_> = world.models.iter().map(|model| format!("{:?}", model.competence)).collect();
                rows.sort();
                rows
            };
            assert_eq!(rows(&permuted), rows(&world));
            for (a, b) in permuted.models.iter().zip(&world.models) {
                assert_eq!((&a.name, a.price_in, a.latency_ms), (&b.name, b.price_in, b.latency_ms));
            }
        }
    }

    #[test]
    fn seeds_decide() {
        let world = World::load(None).unwrap();
        assert_eq!(permute(&world, 3), permute(&world, 3));
        assert_ne!(permute(&world, 3).models, permute(&world, 4).models);
    }
}
