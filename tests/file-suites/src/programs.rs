//! Scripts of programs that depend on a file system: for an ordinary user, in an empty directory of that user.

/// A script for `/bin/sh`.
#[derive(Clone, Debug)]
pub struct Script {
    /// The programs that it needs, besides those of every Debian.
    pub needs: &'static [&'static str],
    /// Its text, to be run in the directory.
    pub text: String,
    /// Its output.
    pub prints: String,
}

const START: &str =
    "set -e\nexport GIT_CONFIG_NOSYSTEM=1 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n";

/// A repository is made with this many commits, at least one, cloned to a bare one, packed, cloned from there and checked. HOME
/// has to be a directory that may be written.
#[must_use]
pub fn repository(commits: u32) -> Script {
    let text = r#"
git init -q one 2>/dev/null
git -C one config user.email user@example.org; git -C one config user.name user
for i in $(seq COMMITS); do
    mkdir one/d$i; seq $((i * 1000)) > one/d$i/file; ln -s ../d1/file one/d$i/link
    git -C one add .; git -C one commit -q -m "commit $i"
done
git clone -q --bare one bare
git -C bare gc -q
git clone -q bare two
git -C two fsck --full --strict 2>&1
git -C two log --oneline | wc -l
git -C two status --porcelain
cmp one/dCOMMITS/file two/dCOMMITS/file
"#;
    let text = START.to_owned() + &text.replace("COMMITS", &commits.to_string());
    Script { needs: &["git"], text, prints: format!("{commits}\n") }
}

/// A package is built, installed twice, and verified.
#[must_use]
pub fn package() -> Script {
    let text = r#"
mkdir -p package/DEBIAN package/usr/share/example
printf 'Package: example\nVersion: 1\nArchitecture: all\nMaintainer: user <user@example.org>\nDescription: example\n' \
    > package/DEBIAN/control
seq 10000 > package/usr/share/example/file
ln package/usr/share/example/file package/usr/share/example/second; ln -s file package/usr/share/example/link
dpkg-deb --root-owner-group --build package package.deb >/dev/null
mkdir -p root/var/lib/dpkg/info root/var/lib/dpkg/updates; : > root/var/lib/dpkg/status
for i in 1 2; do
    dpkg --root="$PWD/root" --force-not-root --force-bad-path --log=/dev/null --install package.deb >/dev/null
done
cmp package/usr/share/example/file root/usr/share/example/second
stat -c %h root/usr/share/example/file
dpkg --root="$PWD/root" --verify example
"#;
    Script { needs: &["dpkg", "dpkg-deb"], text: START.to_owned() + text, prints: "2\n".to_owned() }
}

/// Five processes at once write a database. A log lies beside it, and an index that all of them map.
#[must_use]
pub fn database() -> Script {
    let text = r#"
sqlite3 base 'PRAGMA journal_mode=wal; CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT);'
for i in 1 2 3 4 5; do
    sqlite3 base "PRAGMA busy_timeout=120000; BEGIN IMMEDIATE; WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 500)
        INSERT INTO t (text) SELECT hex(randomblob(50)) FROM c; COMMIT;" >/dev/null &
done
wait
sqlite3 base 'SELECT count(*) FROM t; PRAGMA integrity_check;'
"#;
    Script { needs: &["sqlite3"], text: START.to_owned() + text, prints: "wal\n2500\nok\n".to_owned() }
}
