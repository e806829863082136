//! Token counts, from every place providers put them.

use std::borrow::Cow;

use super::wire::{Count, GeminiUsage, RawObject, Usage as WireUsage, UsageDetails, read};

/// Token counts as the provider reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// As reported, else prompt, completion and separately counted cache tokens together.
    pub total_tokens: u64,
    /// Prompt tokens read from the provider's cache.
    pub cached_tokens: Option<u64>,
    pub reasoning_tokens: Option<u64>,
    /// The provider's detail objects, as JSON text.
    pub input_details: Option<String>,
    pub output_details: Option<String>,
}

/// Usage as it comes together: Anthropic reports prompt and answer in different events.
#[derive(Debug, Default)]
pub struct UsageNotes {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    /// Cache reads and writes that are not part of the prompt count (Anthropic).
    beside_prompt: [Option<u64>; 2],
    cached: Option<u64>,
    reasoning: Option<u64>,
    input_details: Option<String>,
    output_details: Option<String>,
}

impl UsageNotes {
    pub fn openai_or_anthropic(&mut self, usage: &WireUsage<'_>) {
        for prompt in [usage.input_tokens, usage.prompt_tokens] {
            replace(&mut self.prompt, prompt);
        }
        for completion in [usage.output_tokens, usage.completion_tokens] {
            replace(&mut self.completion, completion);
        }
        replace(&mut self.total, usage.total_tokens);
        replace(&mut self.beside_prompt[0], usage.cache_creation_input_tokens);
        replace(&mut self.beside_prompt[1], usage.cache_read_input_tokens);
        for cached in [usage.cached_tokens, usage.prompt_cache_hit_tokens, usage.cache_read_input_tokens] {
            replace(&mut self.cached, cached);
        }
        for details in [usage.prompt_tokens_details, usage.input_tokens_details] {
            replace(&mut self.cached, read_details(details).cached_tokens);
            self.input_details = details.text().map(Cow::into_owned).or(self.input_details.take());
        }
        for details in [usage.completion_tokens_details, usage.output_tokens_details] {
            replace(&mut self.reasoning, read_details(details).reasoning_tokens);
            self.output_details = details.text().map(Cow::into_owned).or(self.output_details.take());
        }
    }

    pub fn gemini(&mut self, usage: &GeminiUsage) {
        replace(&mut self.prompt, usage.prompt);
        replace(&mut self.completion, usage.candidates);
        replace(&mut self.total, usage.total);
        replace(&mut self.cached, usage.cached);
        replace(&mut self.reasoning, usage.thoughts);
    }

    pub fn into_usage(self) -> Option<Usage> {
        if self.prompt.is_none() && self.completion.is_none() && self.total.is_none() {
            return None;
        }
        let prompt_tokens = self.prompt.unwrap_or(0);
        let completion_tokens = self.completion.unwrap_or(0);
        let sum = || {
            let beside = self.beside_prompt.iter().flatten().copied();
            beside.fold(prompt_tokens.saturating_add(completion_tokens), u64::saturating_add)
        };
        Some(Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: self.total.unwrap_or_else(sum),
            cached_tokens: self.cached,
            reasoning_tokens: self.reasoning,
            input_details: self.input_details,
            output_details: self.output_details,
        })
    }
}

fn read_details(details: RawObject<'_>) -> UsageDetails {
    details.0.and_then(|details| read(details).ok()).unwrap_or_default()
}

fn replace(known: &mut Option<u64>, reported: Count) {
    *known = reported.0.or(*known);
}
