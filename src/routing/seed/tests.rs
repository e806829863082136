use super::*;
use crate::routing::features::{Prompt, extract};

fn features(text: &str) -> FeatureVector {
    extract(&Prompt::single(text))
}

fn rows() -> Vec<(String, Domain)> {
    let texts = [
        (Domain::Math, ["解方程", "求三角形面积", "solve for x", "计算概率"]),
        (Domain::Code, ["写 Python 函数", "数据库索引失效", "fix this bug", "线程死锁"]),
        (Domain::Medicine, ["感冒吃什么药", "高血压症状", "chest pain treatment", "孩子发烧"]),
        (Domain::Writing, ["写一首诗", "起草演讲稿", "write a short story", "润色文章"]),
        (Domain::Generic, ["推荐旅游景点", "明代的历史", "best way to save money", "成语的意思"]),
    ];
    let numbered = |(domain, texts): (Domain, [&str; 4])| {
        (0..24).map(move |i| (format!("{} {}", texts[i % 4], i / 4), domain)).collect::<Vec<_>>()
    };
    texts.into_iter().flat_map(numbered).collect()
}

fn trained(seed: u64) -> Seed {
    let rows = rows();
    Seed::train(&rows.iter().map(|(text, domain)| (text.as_str(), *domain)).collect::<Vec<_>>(), seed)
}

#[test]
fn the_shipped_seed_reads_and_knows_its_domains() {
    let seed = Seed::shipped().unwrap();
    for (text, domain) in [
        ("已知函数 f(x)=x^2+1，求其在区间上的最小值", Domain::Math),
        ("How do I join two tables in PostgreSQL?", Domain::Code),
        ("糖尿病人可以吃西瓜吗？血糖会升高吗", Domain::Medicine),
        ("请帮我写一封给客户的道歉信，语气诚恳", Domain::Writing),
        ("周末去成都有哪些好吃的推荐", Domain::Generic),
    ] {
        assert_eq!(seed.top(&features(text)).0, domain, "{text}: {:?}", seed.classify(&features(text)));
    }
}

#[test]
fn probabilities_sum_to_one_even_of_nothing() {
    let seed = Seed::shipped().unwrap();
    for text in ["", "\u{0}\u{fffd}", "🙂🙂🙂", "Ω≈ç√"] {
        let sum: f32 = seed.classify(&features(text)).iter().sum();
        assert!((sum - 1.0).abs() < 1e-4, "{text:?}: {sum}");
    }
}

#[test]
fn training_is_deterministic_and_its_bytes_round_trip() {
    let seed = trained(3);
    let bytes = seed.to_bytes();
    assert_eq!(trained(3).to_bytes(), bytes);
    assert_ne!(trained(4).to_bytes(), bytes);
    assert_eq!(Seed::from_bytes(&bytes).unwrap(), seed);
    assert_eq!(seed.top(&features("求概率")).0, Domain::Math);
}

#[test]
fn what_is_no_seed_of_this_version_is_refused_by_name() {
    let bytes = trained(1).to_bytes();
    let error = |bytes: &[u8]| Seed::from_bytes(bytes).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error(b"PK\x03\x04zip").contains("not a router seed"));
    assert!(error(b"").contains("not a router seed"));
    let changed = |at: usize| {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        changed
    };
    assert!(error(&changed(4)).contains("format version"));
    assert!(error(&changed(8)).contains("features of version"));
    assert!(error(&changed(bytes.len() / 2)).contains("checksum"));
    assert!(error(&bytes[..bytes.len() - 1]).contains("checksum"));
}

#[test]
fn names_parse_back_and_unknown_ones_say_what_is_known() {
    for domain in Domain::ALL {
        assert_eq!(domain.name().parse(), Ok(domain));
    }
    assert!("law".parse::<Domain>().unwrap_err().to_string().contains("`law` is not a domain"));
}
