//! The user and groups of a process: `user[:group]`, looked up in the passwd and group files of a root, without the C
//! library's name services (they load code at run time). Pure functions over the files' text, and one that reads them.

use std::path::Path;

use hutch_agent_proto::RemoteError;
use nix::errno::Errno;

use crate::failure::{invalid, system, Outcome};
use crate::root::RootDir;

/// Largest passwd or group file that the agent reads, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Most supplementary groups (the kernel's `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// Ids and home directory of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, sorted. The primary group is among them, lest a process gains access by leaving it.
    pub groups: Vec<u32>,
    /// Home directory; `/` if the user has no entry.
    pub home: String,
}

/// Looks up `user` and more `groups` in the files of `root`. A missing file counts as empty.
///
/// # Errors
/// `Invalid` if a name is unknown, `System` if a file cannot be read.
pub fn look_up(root: &RootDir, user: &str, groups: &[String]) -> Outcome<Identity> {
    let read = |path: &str| {
        let text = root.read(Path::new(path), MAX_FILE).map_err(|errno: Errno| system(path, errno))?;
        Ok::<_, RemoteError>(text.unwrap_or_default())
    };
    resolve(user, groups, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// As [`look_up`], over the files' text.
///
/// An empty user is 0. A number without an entry has group 0. Supplementary groups come from the group file unless
/// `user` names a group, as in docker; `more` is added in any case.
///
/// # Errors
/// `Invalid` if a name is unknown or a number out of range.
pub fn resolve(user: &str, more: &[String], passwd: &str, group: &str) -> Outcome<Identity> {
    let (name, named_group) = match user.split_once(':') {
        Some((name, named_group)) => (name, Some(named_group).filter(|text| !text.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entry = find_user(name, passwd);
    let uid = match (&entry, parse_id(name)) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(invalid(format!("user {name:?} is not in /etc/passwd of the root"))),
    };
    let gid = match (named_group, &entry) {
        (Some(text), _) => group_id(text, group)?,
        (None, Some(entry)) => entry.gid,
        (None, None) => 0,
    };
    let mut groups = vec![gid];
    if let (None, Some(entry)) = (named_group, &entry) {
        groups.extend(memberships(entry.name, group));
    }
    for text in more {
        groups.push(group_id(text, group)?);
    }
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > MAX_GROUPS {
        return Err(invalid(format!("{} supplementary groups; {MAX_GROUPS} is the most", groups.len())));
    }
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(Identity { uid, gid, groups, home: home.to_string() })
}

/// A line of a passwd file.
struct UserEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The first entry whose name is `name`, or whose id is that number.
fn find_user<'a>(name: &str, passwd: &'a str) -> Option<UserEntry<'a>> {
    let wanted = parse_id(name);
    passwd.lines().filter_map(parse_user).find(|entry| entry.name == name || Some(entry.uid) == wanted)
}

/// `name:password:uid:gid:comment:home:shell`; malformed lines and comments are `None`.
fn parse_user(line: &str) -> Option<UserEntry<'_>> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let uid = parse_id(fields.nth(1)?)?;
    let gid = parse_id(fields.next()?)?;
    Some(UserEntry { name, uid, gid, home: fields.nth(1).unwrap_or("") })
}

/// Id of the group called `text`, or the number itself.
fn group_id(text: &str, group: &str) -> Outcome<u32> {
    let wanted = parse_id(text);
    let entry = group.lines().filter_map(parse_group).find(|(name, gid, _)| *name == text || Some(*gid) == wanted);
    match (entry, wanted) {
        (Some((_, gid, _)), _) => Ok(gid),
        (None, Some(gid)) => Ok(gid),
        (None, None) => Err(invalid(format!("group {text:?} is not in /etc/group of the root"))),
    }
}

/// Groups that list `user` as a member.
fn memberships<'a>(user: &'a str, group: &'a str) -> impl Iterator<Item = u32> + 'a {
    let entries = group.lines().filter_map(parse_group);
    entries.filter(move |(_, _, members)| members.split(',').any(|name| name.trim() == user)).map(|(_, gid, _)| gid)
}

/// `name:password:gid:member,member`; malformed lines and comments are `None`.
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let gid = parse_id(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or("")))
}

/// A decimal id. The all-ones number is not an id: it means "unchanged" to the kernel.
fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&id| digits && id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# comment:x:5:5::/:\nbroken\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\n\
                          nohome:x:1002:1002\r\n7:x:1007:7::/seven:\n";
    const GROUP: &str =
        "root:x:0:root\nbob:x:1001:\nwheel:x:10:root, bob\naudio:x:29:bob,eve\nbad:x:zz:bob\nempty:x:30:\n";

    fn ok(user: &str) -> Identity {
        resolve(user, &[], PASSWD, GROUP).unwrap()
    }

    #[test]
    fn names_bring_group_memberships_and_home() {
        let bob = Identity { uid: 1000, gid: 1001, groups: vec![10, 29, 1001], home: "/home/bob".into() };
        assert_eq!(ok("bob"), bob);
        assert_eq!(ok("1000"), bob, "a number with an entry is that user");
        assert_eq!(ok("bob:"), bob);
    }

    #[test]
    fn empty_is_root() {
        assert_eq!(ok(""), Identity { uid: 0, gid: 0, groups: vec![0, 10], home: "/root".into() });
        let bare = resolve("", &[], "", "").unwrap();
        assert_eq!(bare, Identity { uid: 0, gid: 0, groups: vec![0], home: "/".into() });
    }

    #[test]
    fn a_named_group_replaces_memberships() {
        assert_eq!(ok("bob:audio"), Identity { uid: 1000, gid: 29, groups: vec![29], home: "/home/bob".into() });
        assert_eq!(ok("bob:4242").gid, 4242);
        assert_eq!(ok(":audio").uid, 0);
    }

    #[test]
    fn numbers_need_no_entry() {
        assert_eq!(ok("4711"), Identity { uid: 4711, gid: 0, groups: vec![0], home: "/".into() });
    }

    #[test]
    fn a_numeric_name_wins_in_file_order() {
        assert_eq!(ok("7").uid, 1007);
    }

    #[test]
    fn short_lines_are_accepted() {
        assert_eq!(ok("nohome"), Identity { uid: 1002, gid: 1002, groups: vec![1002], home: "/".into() });
    }

    #[test]
    fn more_groups_are_added_once() {
        let groups = ["wheel".into(), "29".into(), "31".into()];
        assert_eq!(resolve("bob", &groups, PASSWD, GROUP).unwrap().groups, [10, 29, 31, 1001]);
    }

    #[test]
    fn unknown_names_are_invalid() {
        for (user, groups) in
            [("eve", vec![]), ("bob:nogroup", vec![]), ("bob", vec!["nogroup".to_string()]), ("-1", vec![])]
        {
            let error = resolve(user, &groups, PASSWD, GROUP).unwrap_err();
            assert_eq!(error.kind, hutch_agent_proto::RemoteErrorKind::Invalid, "{user}");
        }
        assert!(resolve("4294967295", &[], PASSWD, GROUP).is_err(), "the kernel's 'unchanged' is not a user");
        assert!(resolve("+5", &[], PASSWD, GROUP).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(user in ".{0,20}", passwd in ".{0,200}", group in "(.{0,40}\n){0,8}") {
            let _ = resolve(&user, &[], &passwd, &group);
        }

        #[test]
        fn an_entry_is_found_among_any_noise(before in "([^:\n]{0,20}\n){0,5}", uid in 0u32..100_000, gid in 0u32..100_000) {
            let passwd = format!("{before}target:x:{uid}:{gid}::/home/t:/bin/sh\n");
            let identity = resolve("target", &[], &passwd, "").unwrap();
            prop_assert_eq!((identity.uid, identity.gid, identity.home.as_str()), (uid, gid, "/home/t"));
        }
    }
}
