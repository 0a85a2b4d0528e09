//! Which of the things of a host a person means by a name.
//!
//! A name is whole (`blog:web`), or left without its stack (`web`) where only one stack has it. Whoever *removes* something
//! asks for the whole name: what `web` means changes when another stack gets one.

use crate::name::nearest;

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant<'a> {
    /// This one.
    One(&'a str),
    /// Several stacks have one: their whole names, in order.
    Several(Vec<&'a str>),
    /// There is none; this is nearest.
    None(Option<&'a str>),
}

/// What `asked` means among whole names: the one that is called so, or the only one that is called so in its stack. `:web` is
/// `web` without a stack, and no other.
///
/// Names of volumes are the same with `/VOLUME` behind them.
pub fn meant<'a>(asked: &str, all: impl IntoIterator<Item = &'a str>) -> Meant<'a> {
    let all: Vec<&str> = all.into_iter().collect();
    let whole = asked.strip_prefix(':').unwrap_or(asked);
    if let Some(found) = all.iter().find(|name| **name == whole) {
        return Meant::One(found);
    }
    let mut of_stacks: Vec<&str> = all
        .iter()
        .copied()
        .filter(|name| local(name) == Some(asked))
        .collect();
    of_stacks.sort_unstable();
    of_stacks.dedup();
    match of_stacks.as_slice() {
        [] => Meant::None(nearest(asked, all)),
        [only] => Meant::One(only),
        _ => Meant::Several(of_stacks),
    }
}

/// As [`meant`], where only the whole name will do: one without its stack is none, and the nearest is what it could mean.
pub fn exactly<'a>(asked: &str, all: impl IntoIterator<Item = &'a str>) -> Meant<'a> {
    match meant(asked, all) {
        Meant::One(found) if found != asked && local(found) == Some(asked) => {
            Meant::None(Some(found))
        }
        other => other,
    }
}

/// A name without its stack. None: it has none.
fn local(name: &str) -> Option<&str> {
    Some(name.split_once(':')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: [&str; 5] = ["web", "blog:web", "blog:db", "shop:web", "shop:api"];

    fn of(asked: &str) -> Meant<'static> {
        meant(asked, HOST.iter().copied())
    }

    #[test]
    fn a_pod_may_be_named_without_its_stack_where_one_stack_has_it() {
        assert_eq!(of("db"), Meant::One("blog:db"));
        assert_eq!(of("blog:db"), Meant::One("blog:db"));
        // What belongs to no stack is meant first.
        assert_eq!(of("web"), Meant::One("web"));
        assert_eq!(of(":web"), Meant::One("web"));
        assert!(matches!(of(":db"), Meant::None(_)));
        assert!(matches!(of("shop:db"), Meant::None(Some(_))));
        assert_eq!(of("postgres"), Meant::None(None));
        let stacks = ["blog:web", "shop:web", "shop:api"];
        assert_eq!(
            meant("web", stacks.iter().copied()),
            Meant::Several(vec!["blog:web", "shop:web"])
        );
        assert_eq!(meant("", stacks.iter().copied()), Meant::None(None));
    }

    #[test]
    fn a_volume_is_named_as_its_pod() {
        let kept = ["blog:db/data", "shop:db/data", "blog:db/tmp"];
        let of = |asked: &str| meant(asked, kept.iter().copied());
        assert_eq!(of("db/tmp"), Meant::One("blog:db/tmp"));
        assert_eq!(
            of("db/data"),
            Meant::Several(vec!["blog:db/data", "shop:db/data"])
        );
    }

    #[test]
    fn what_is_removed_is_named_whole() {
        let exactly = |asked: &str| super::exactly(asked, HOST.iter().copied());
        assert_eq!(exactly("blog:db"), Meant::One("blog:db"));
        assert_eq!(exactly("web"), Meant::One("web"));
        assert_eq!(exactly("db"), Meant::None(Some("blog:db")));
        let stacks = ["blog:web", "shop:web"];
        assert_eq!(
            super::exactly("web", stacks.iter().copied()),
            Meant::Several(vec!["blog:web", "shop:web"])
        );
    }
}
