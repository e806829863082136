//! What a request cost, from the price the operator configured. Prices are never guessed.

use serde::{Deserialize, Serialize};

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Price {
    pub input: f64,
    pub output: f64,
}

impl Price {
    /// US dollars for one request.
    pub fn usd(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.input + completion_tokens as f64 * self.output) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn price_is_per_million_tokens_each_way() {
        let price = Price { input: 2.5, output: 10.0 };
        assert_eq!(price.usd(1_000_000, 0), 2.5);
        assert_eq!(price.usd(400, 50), 0.0015);
        assert_eq!(price.usd(0, 0), 0.0);
    }
}
