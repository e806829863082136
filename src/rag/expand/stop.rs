//! Words that carry no content of their own: where entities and keywords end. Not the list of the BM25 index, which
//! `terms` has; this one also holds the words that questions begin with. Written for this project.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Lower case, without apostrophes.
pub fn is_stop_word(word: &str) -> bool {
    static WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| ENGLISH.split_whitespace().collect());
    WORDS.contains(word)
}

/// The length in bytes of the function word that Chinese text begins with here, if it does. Longer ones first.
pub fn chinese_stop_word(text: &str) -> Option<usize> {
    CHINESE.split_whitespace().find(|word| text.starts_with(word)).map(str::len)
}

const ENGLISH: &str = "
    a about above according across after again against all along already also although always am among an and
    another any are around as at away be became because become been before being below besides between both but by
    called can could describe despite did do does doing done down during each either even ever every explain few
    find first following for from further give had has have having he her here him his how however i if in
    including into is it its just known list made many may me might more most much must my name named neither
    never no nor not now of off often on once one only or other others our out over own please same see several
    shall she should show since so some still such tell than that the their them then there therefore these they
    this those though through thus to too under until up upon us used using very was we were what when where
    whether which while who whom whose why will with within without would yes yet you your
";

/// Longest first, so that a word is not taken for its beginning.
const CHINESE: &str = "
    什么时候 为什么 是不是 有没有 能不能 怎么样 具体 包括 哪些 什么 怎么 怎样 如何 多少 几个 哪里 哪儿 哪个 哪位
    哪年 谁的 为何 是否 可以 应该 以及 或者 还是 因为 所以 如果 但是 关于 对于 根据 通过 其中 之间 之后 之前 时候
    我们 你们 他们 她们 它们 这个 那个 这些 那些 请问 一下 告诉 介绍 的 了 吗 呢 吧 啊 是 在 和 与 及 或 被 把 从
    由 到 对 为 有 谁 哪 几 请
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_hides_a_longer_one() {
        let words: Vec<&str> = CHINESE.split_whitespace().collect();
        for (n, word) in words.iter().enumerate() {
            let hidden = words[n + 1..].iter().find(|later| later.starts_with(word));
            assert_eq!(hidden, None, "{word} comes before a longer word that begins with it");
        }
    }

    #[test]
    fn words_are_found() {
        assert!(is_stop_word("which") && !is_stop_word("city") && !is_stop_word(""));
        assert_eq!(chinese_stop_word("什么时候开始"), Some("什么时候".len()));
        assert_eq!(chinese_stop_word("国家"), None);
    }
}
