use std::sync::atomic::{AtomicU32, Ordering};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// kie.ai's clock when it answers.
const DATE: i64 = 1_764_120_000;

fn date() -> Timestamp {
    Timestamp::from_second(DATE).unwrap()
}

/// `template` with `<300>`, `<ms 300>`, `<iso -5>` and the like replaced by points of time relative to `DATE`, and
/// `«jwt JSON»` and the like by the text of a token.
fn written(template: &str) -> String {
    let points = replaced(template, ['<', '>'], |form, content| {
        let at = DATE + content.parse::<i64>().unwrap_or_else(|_| panic!("{content} in {template}"));
        let format = |format: &str| Timestamp::from_second(at).unwrap().strftime(format).to_string();
        match form {
            "" => at.to_string(),
            "ms" => format!("{at}123"),
            "us" => format!("{at}123456"),
            "ns" => format!("{at}123456789"),
            "part" => format!("{at}.123"),
            "hex" => format!("{at:x}"),
            "HEX" => format!("{at:X}"),
            "hexms" => format!("{:x}", at * 1000 + 123),
            "iso" => format("%Y-%m-%dT%H:%M:%SZ"),
            "iso%" => format("%Y-%m-%dT%H%%3A%M%%3A%SZ"),
            "iso%%" => format("%Y-%m-%dT%H%%253A%M%%253A%SZ"),
            "isoms" => format("%Y-%m-%dT%H:%M:%S.999Z"),
            "iso+" => format("%Y-%m-%d+%H:%M:%S"),
            "iso+00" => format("%Y-%m-%dT%H:%M:%S+00:00"),
            "basic" => format("%Y%m%dT%H%M%SZ"),
            "compact" => format("%Y%m%d%H%M%S"),
            "http" => format("%a,+%d+%b+%Y+%H:%M:%S+GMT"),
            "http%" => format("%a%%2C%%20%d%%20%b%%20%Y%%20%H%%3A%M%%3A%S%%20GMT"),
            "httpzone" => format("%a,+%d+%b+%Y+%H:%M:%S+%%2B0000"),
            "http850" => format("%A,+%d-%b-%y+%H:%M:%S+GMT"),
            _ => panic!("{form} in {template}"),
        }
    });
    replaced(&points, ['«', '»'], |form, json| match form {
        "base64" => BASE64_STANDARD.encode(json),
        "base64url" => BASE64_URL_SAFE_NO_PAD.encode(json),
        "cloudfront" => BASE64_STANDARD.encode(json).replace('+', "-").replace('=', "_").replace('/', "~"),
        "jwt" => format!("eyJhbGciOiJIUzI1NiJ9.{}.c2lnLW5h_HVy", BASE64_URL_SAFE_NO_PAD.encode(json)),
        _ => panic!("{form} in {template}"),
    })
}

/// `text` with every marked piece replaced by what `write` makes of it. The word before the first space of a piece is
/// its form.
fn replaced(text: &str, [open, close]: [char; 2], write: impl Fn(&str, &str) -> String) -> String {
    let mut pieces = text.split(open);
    let head = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(head, |done, piece| {
        let (inner, rest) = piece.split_once(close).expect("marks match");
        let (form, content) = inner.split_once(' ').unwrap_or(("", inner));
        done + &write(form, content) + rest
    })
}

fn seconds(query: &str) -> Option<u64> {
    let link = format!("https://h.example/a?{}", written(query));
    life_left(&link, date()).map(|left| left.as_secs())
}

fn check(table: &[(&str, Option<u64>)]) {
    let wrong: Vec<String> = table
        .iter()
        .map(|(query, expected)| (query, seconds(query), expected))
        .filter(|(_, found, expected)| found != *expected)
        .map(|(query, found, expected)| format!("{query}: {found:?} instead of {expected:?}: {}", written(query)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_signature_with_a_date_and_a_duration_means_what_it_says() {
    check(
        &[
            ("X-Amz-Date=<basic 0>&X-Amz-Expires=1200", Some(1200)),
            ("X-Amz-Expires=1200&a=b&X-Amz-Date=<basic 0>", Some(1200)),
            ("x-amz-expires=1200&x-amz-date=<basic -1>", Some(1199)),
            ("X-Amz-Date=<basic -900>&X-Amz-Expires=1200", Some(300)),
            ("X-Amz-Date=<basic -1199>&X-Amz-Expires=1200", Some(1)),
            ("X-Amz-Date=<basic -1200>&X-Amz-Expires=1200", Some(0)),
            ("X-Amz-Date=<basic -4800>&X-Amz-Expires=1200", Some(0)),
            // Ahead of `Date`, and longer than documented.
            ("X-Amz-Date=<basic 120>&X-Amz-Expires=300", Some(420)),
            ("X-Amz-Date=<basic -3600>&X-Amz-Expires=604800", Some(601_200)),
            ("X-Amz-Date=<basic 0>&X-Amz-Expires=61.0", Some(61)),
            ("X%2DAmz%2DDate=<basic 0>&X-Amz-Expires=%36%30", Some(60)),
            ("X-Goog-Date=<basic 0>&X-Goog-Expires=60", Some(60)),
            ("x-oss-date=<basic -10>&x-oss-expires=30&x-oss-signature=s", Some(20)),
            ("X-Tos-Date=<basic -10>&X-Tos-Expires=310", Some(300)),
            ("X-Obs-Date=<basic -10>&X-Obs-Expires=310", Some(300)),
            ("X-Date=<basic -10>&X-Expires=310&X-Signature=s", Some(300)),
            ("X-Nobody-Date=<basic -10>&X-Nobody-Expires=310", Some(300)),
            ("x_amz_date=<basic -10>&x_amz_expires=310", Some(300)),
            ("X-Foo-Date=<iso% -10>&X-Foo-Expires=310", Some(300)),
            ("authorization=bce-auth-v1%2Fak%2F<iso% -10>%2F310%2Fhost%2F0a1b", Some(300)),
            ("authorization=bce-auth-v1/ak/<iso -400>/310/host/0a1b", Some(0)),
            // Only one of the two.
            ("X-Amz-Date=<basic -607>", Some(593)),
            ("X-Amz-Date=<basic -1207>", Some(0)),
            ("X-Foo-Date=<basic -607>&X-Foo-Signature=s", Some(593)),
            ("X-Foo-Date=<basic -607>", None),
            ("x-upload-date=<basic -90000>", None),
            ("X-Amz-Expires=900", Some(900)),
            // Not to be read: no bound of its own.
            ("X-Amz-Expires=never", None),
            ("X-Amz-Expires=-1", None),
            ("X-Amz-Date=soon", None),
            ("X-Amz-Date=2025-11-26", None),
            ("X-Amz-Date=<basic -200>&X-Amz-Expires=never", Some(1000)),
            ("X-Amz-Date=soon&X-Amz-Expires=1000", Some(1000)),
            ("X-Amz-Expires=900&X-Amz-Expires=never", Some(900)),
            // Doubled: the earlier end.
            ("X-Amz-Expires=900&X-Amz-Expires=30", Some(30)),
            ("X-Amz-Date=<basic 0>&X-Amz-Date=<basic -100>&X-Amz-Expires=900&X-Amz-Expires=300", Some(200)),
            ("X-Amz-Date=<basic 0>&X-Amz-Expires=900&X-Goog-Date=<basic 0>&X-Goog-Expires=300", Some(300)),
            // A point of time where others have a duration.
            ("x-expires=<300>&x-signature=s", Some(300)),
            ("X-Foo-Date=<basic -3600>&X-Foo-Expires=<300>&X-Foo-Signature=s", Some(300)),
            ("X-Amz-Date=<basic 0>&X-Amz-Expires=18446744073709551615", Some(Duration::MAX.as_secs())),
        ]
        .map(|(query, expected)| {
            (query, expected.map(|life| if life == u64::MAX { seconds_to_the_last() } else { life }))
        }),
    );
}

fn seconds_to_the_last() -> u64 {
    Timestamp::MAX.duration_since(date()).as_secs().cast_unsigned()
}

#[test]
fn a_name_that_says_expiry_bounds_the_life_in_every_form() {
    let forms =
        "us ms ns part hex HEX hexms iso iso% iso%% isoms iso+ iso+00 basic compact http http% http850 httpzone";
    for form in forms.split(' ') {
        check(&[
            (&format!("Expires=<{form} 300>&Signature=s"), Some(300)),
            (&format!("Expires=<{form} -3>&Signature=s"), Some(0)),
            (&format!("x=<{form} 300>"), Some(300)),
            (&format!("x=<{form} 1300>"), None),
            (&format!("x=<{form} 2>"), None),
            (&format!("x=<{form} -3>"), None),
        ]);
    }
    let names = "expires Expires EXPIRES expire expiry expiration exp ex e se until deadline DateLessThan EpochTime \
        AWS:EpochTime x-expires X-Foo-Expires x-exp x-e X-Foo-Se token_exp tokenExp sig-expiry expires_at expiresAt \
        expiresat expires_in expirationTime expire-time exp_time expiredTime valid_until validTo not_after \
        NotOnOrAfter t[expires] expires[] date_less_than DateLessThanEquals %65xpires";
    for name in names.split_whitespace() {
        check(&[
            (&format!("{name}=<300>"), Some(300)),
            (&format!("a=b&{name}=<-1>&c=d"), Some(0)),
            (&format!("{name}=<7200>"), Some(7200)),
            (&format!("{name}=300"), Some(300)),
            (&format!("{name}=never"), None),
            (&format!("{name}="), None),
            (name, None),
        ]);
    }
}

#[test]
fn the_boundaries_of_each_rule() {
    check(&[
        ("expires=<1>", Some(1)),
        ("expires=<0>", Some(0)),
        ("expires=<-1>", Some(0)),
        ("expires=<ms 0>", Some(0)),
        ("expires=1", Some(1)),
        ("expires=0.5", Some(0)),
        // "No expiry" at many hosts.
        ("expires=0", None),
        ("expires=0.0", None),
        ("expires=%220%22", None),
        ("expires=0s", None),
        ("a=exp=0~hmac=5f3c2a1b", None),
        ("token=«jwt {\"exp\":0}»", None),
        ("expires=0&e=<300>", Some(300)),
        ("X-Amz-Date=<basic 0>&X-Amz-Expires=0", Some(0)),
        ("expires=86399s", Some(86_399)),
        ("expires=1d", None),
        ("expires=-5m", None),
        ("expires=86399", Some(86_399)),
        ("expires=86400", None),
        ("expires=604800", None),
        ("expires=946684799", None),
        ("expires=946684800", Some(0)),
        ("t=<60>", None),
        ("t=<ms 60>", None),
        ("t=<61>", Some(61)),
        ("t=<1200>", Some(1200)),
        ("t=<1201>", None),
        ("t=300", None),
        // Several points in one value: the latest that may count. Several values: the earliest end.
        ("t=<0>;<300>", Some(300)),
        ("t=<100>;<300>", Some(300)),
        ("t=<300>;<7200>", Some(300)),
        ("t=<1>;<7200>", None),
        ("e=<-10>,<300>", Some(300)),
        ("e=<-10>,<-5>", Some(0)),
        ("a=<300>&b=<200>", Some(200)),
        ("expires=<900>&t=<300>", Some(300)),
        ("expires=<300>&expires=<900>", Some(300)),
        // Names within a value: those that say expiry come first.
        ("a=st=<-5>~exp=<900>~data=<300>", Some(900)),
        ("a=exp=<300>~e=<900>", Some(300)),
        ("a=exp=never~data=<300>", Some(300)),
        ("expires=st=<-5>~exp=<300>", Some(300)),
        ("expires=st=<-5>~until=<-1>", Some(0)),
        ("e=«base64url {\"updated\":<-300>}»", None),
        ("e=«base64url {\"time\":<-300>}»", Some(0)),
        ("e=«base64url [<-300>,<300>]»", Some(300)),
        ("a=«base64url {\"exp\":[<-300>,<300>],\"e\":<900>}»", Some(300)),
        ("a=«base64url {\"exp\":300}»", Some(300)),
        ("a=«base64url {\"exp\":{\"seconds\":<300>,\"nanos\":0}}»", Some(300)),
    ]);
}

#[test]
fn links_of_many_makers_end_when_their_hosts_end_them() {
    check(&[
        // S3 v2, Alibaba OSS v1, Huawei OBS, QingStor, Google Cloud Storage v2
        ("AWSAccessKeyId=AKIA&Expires=<300>&Signature=a%2Bb%3D", Some(300)),
        ("OSSAccessKeyId=LTAI&Expires=<-300>&Signature=s", Some(0)),
        ("GoogleAccessId=a%40b.iam&Expires=<300>&Signature=s", Some(300)),
        ("access_key_id=a&expires=<300>&signature=s", Some(300)),
        // Tencent COS, also as one encoded parameter
        ("q-sign-algorithm=sha1&q-ak=a&q-sign-time=<-1>;<300>&q-key-time=<-1>;<300>&q-signature=s", Some(300)),
        ("q-sign-time=<-900>%3B<-300>&q-key-time=<-900>%3B<-300>", Some(0)),
        ("sign=q-sign-algorithm%3Dsha1%26q-sign-time%3D<-1>%3B<300>%26q-signature%3Ds", Some(300)),
        // Azure: a signature, and one by a delegation key that lives longer
        ("sv=2024-08-04&st=<iso% -900>&se=<iso% 300>&sr=b&sp=r&sig=s%3D", Some(300)),
        ("se=<iso% 300>&skt=<iso% -900>&ske=<iso% 86400>&skv=2024-08-04&sig=s", Some(300)),
        ("se=<iso% 900>&skt=<iso% -900>&ske=<iso% 300>", Some(300)),
        ("sig=s&se=<iso% -1>", Some(0)),
        // CloudFront, canned and custom
        ("Expires=<300>&Signature=a~b-c__&Key-Pair-Id=APKA2JCJMLFQ2", Some(300)),
        (
            "Policy=«cloudfront {\"Statement\":[{\"Resource\":\"https://h/*?~\",\"Condition\":{\"DateLessThan\":\
             {\"AWS:EpochTime\":<300>},\"DateGreaterThan\":{\"AWS:EpochTime\":<-60>}}}]}»&Signature=s__",
            Some(300),
        ),
        ("Policy=«cloudfront {\"Statement\":[{\"Condition\":{\"DateGreaterThan\":{\"AWS:EpochTime\":<-60>}}}]}»", None),
        ("Policy=«base64 {\"Statement\":[{\"Condition\":{\"DateLessThan\":{\"AWS:EpochTime\":<-60>}}}]}»", Some(0)),
        (
            "Policy=«base64 {\"Statement\":[{\"Condition\":{\"DateLessThan\":{\"aws:CurrentTime\":\"<iso -60>\"}}}]}»",
            Some(0),
        ),
        // A policy of S3's for forms
        (
            "policy=«base64 {\"expiration\":\"<iso 300>\",\"conditions\":[[\"eq\",\"$x-amz-date\",\"<basic 0>\"]]}»",
            Some(300),
        ),
        // Akamai, Google Media CDN, Vimeo
        ("hdnts=st=<-2>~exp=<300>~acl=/*~hmac=5f3c2a1b", Some(300)),
        ("__token__=exp=<300>~acl=%2F*~hmac=5f3c2a1b", Some(300)),
        ("hdnea=ip=1.2.3.4~st=<-2>~exp=<-1>~acl=/*~hmac=0", Some(0)),
        ("Edge-Cache-Token=URLPrefix=aHR0cHM6Ly9o~Expires=<300>~KeyName=k~Signature=s", Some(300)),
        // JSON web tokens: Supabase, Cloudflare Stream, Mux
        ("token=«jwt {\"url\":\"b/a.png\",\"iat\":<-1>,\"exp\":<300>}»", Some(300)),
        ("token=«jwt {\"iat\":<-901>,\"nbf\":<-901>,\"exp\":<-1>}»", Some(0)),
        ("jwt=«jwt {\"claims\":{\"until\":\"<iso 300>\"}}»", Some(300)),
        ("token=«jwt {\"iat\":<-1>,\"exp\":<7200>}»", Some(7200)),
        ("t=«base64url {\"e\":<300>,\"k\":\"AB\"}».sig", Some(300)),
        ("t=«base64url [{\"a\":1},{\"b\":<300>}]»", Some(300)),
        // Twitch
        ("sig=s&token=%7B%22expires%22%3A<300>%2C%22channel%22%3A%22c%22%7D", Some(300)),
        // Discord, Facebook, TikTok, YouTube, Instagram
        ("ex=<hex 300>&is=<hex -5>&hm=d41d8cd98f00b204e9800998ecf8427e&", Some(300)),
        ("ex=<hex -5>&is=<hex -86405>&hm=d41d8cd9", Some(0)),
        ("_nc_ht=h&oh=00_AfC&oe=<HEX 300>", Some(300)),
        ("x-expires=<300>&x-signature=a%2Bb", Some(300)),
        ("expire=<300>&ei=abc&ip=1.2.3.4&id=o-A&sparams=expire,ei&sig=s", Some(300)),
        // Bunny, KeyCDN, nginx, Fastly, Imgix, CDN77, StackPath, Qiniu, Limelight
        ("token=HS256-abc&expires=<300>&token_path=%2F", Some(300)),
        ("token=abc&expire=<300>", Some(300)),
        ("md5=abc-d_f&expires=<300>", Some(300)),
        ("token=<300>_5f3c2a1bd41d8cd98f00b204e9800998ecf8427e", Some(300)),
        ("s=abc&expires=<-1>", Some(0)),
        ("secure=abc==,<300>", Some(300)),
        ("st=abcdef&e=<300>", Some(300)),
        ("attname=a.png&e=<300>&token=ak:sign-a_b=", Some(300)),
        // Cloudflare's HMAC: when it was signed. Alibaba's CDN, three of its four kinds
        ("verify=<0>-a%2Bb%3D", None),
        ("verify=<300>-a%2Bb%3D", Some(300)),
        ("auth_key=<300>-0-0-d41d8cd98f00b204e9800998ecf8427e", Some(300)),
        ("auth_key=<300>-4000000000-0-d41d8cd98f00b204e9800998ecf8427e", Some(300)),
        ("sign=d41d8cd98f00b204e9800998ecf8427e&t=<hex 300>", Some(300)),
        // A link within a link
        ("to=https%3A%2F%2Fh%2Fa%3Fx%3D1%26Expires%3D<300>", Some(300)),
        ("to=https%3A%2F%2Fh%2Fa%3FExpires%3D<iso%% 300>", Some(300)),
        // Padding, and a key's name after the sign that divides it from the end
        ("Expires=<300>=", Some(300)),
        ("Expires=<300>%3D%3D", Some(300)),
        ("Expires=300=", Some(300)),
        ("verify=<300>-c2ln%3D", Some(300)),
        ("token=<300>_c2ln%3D%3D", Some(300)),
        ("token=<300>.c2ln%3D", Some(300)),
        ("token=<300>:c2ln==", Some(300)),
        ("token=c2ln.<300>=", Some(300)),
        ("token=exp:<300>:c2ln%3D", Some(300)),
        ("token=<iso% 300>=", Some(300)),
        ("e=<-1>-c2ln=", Some(0)),
        ("<300>-c2ln=", Some(300)),
        ("<300>=c2ln", Some(300)),
        ("expires=<300>=c2ln", Some(300)),
        ("auth=exp%3A<300>%20sig%3Dab", Some(300)),
        ("auth=exp%3A<iso% 300>%20sig%3Dab", Some(300)),
        ("auth=sig%3Aab%20exp%3D<300>", Some(300)),
        ("auth=exp:<300>+iat=<-1>", Some(300)),
        ("x=urn:exp:<300>:k%3Dv", Some(300)),
        ("x=urn:exp:<-1>:k%3Dv", Some(0)),
        ("x=v1.<300>.k=v", Some(300)),
        ("x=<300>-k=v", Some(300)),
        ("x=<300> exp:soon", Some(300)),
        // Durations with their units
        ("expires_in=300s", Some(300)),
        ("expires_in=5m", Some(300)),
        ("expires_in=5+minutes", Some(300)),
        ("expires=PT5M", Some(300)),
        ("token=«jwt {\"expiresIn\":\"5m\"}»", Some(300)),
        // As texts put it
        ("a=exp:<300>,iat:<-1>", Some(300)),
        ("a=iat=<-1>,exp=<300>,refresh=<7200>", Some(300)),
        ("a=exp=<300>&exp:<900>", Some(300)),
        ("a=valid=<-1>..<300>", Some(300)),
        ("a=exp:<iso 300>", Some(300)),
        ("a=st%3D<-1>%7Cexp%3D<http% 300>%7Cip%3D1.2.3.4", Some(300)),
        ("expires=%22<300>%22", Some(300)),
        ("expires=<300>-deadbeef", Some(300)),
        ("expires=2025-11-26T01:25:00Z[UTC]", Some(300)),
        ("expires=Wed,+26-Nov-2025+01:25:00+GMT", Some(300)),
    ]);
}

#[test]
fn the_path_is_read_like_values_without_a_name_and_the_fragment_is_not_read() {
    let seconds =
        |rest: &str| life_left(&format!("https://h.example{}", written(rest)), date()).map(|left| left.as_secs());
    for (rest, expected) in [
        ("/exp=<300>~acl=%2Fa%2F*~hmac=5f3c2a1b/a.mp4", Some(300)),
        ("/exp=<-1>~hmac=5f3c2a1b/a.mp4", Some(0)),
        ("/bcdn_token=HS256-a&expires=<300>&token_path=%2Fa/a.mp4", Some(300)),
        ("/a.mp4;expires=<300>;sig=s", Some(300)),
        ("/videoplayback/expire/<300>/ei/abc", Some(300)),
        ("/videoplayback/expire/<-1>/ei/abc", Some(0)),
        ("/d41d8cd98f00b204e9800998ecf8427e/<hex 300>/a.mp4", Some(300)),
        ("/<300>/d41d8cd98f00b204e9800998ecf8427e/a.mp4", Some(300)),
        ("/abcdef==,<300>/a.mp4", Some(300)),
        ("/<-300>/a.mp4", None),
        ("/<0>_a.mp4", None),
        ("/<7200>/a.mp4", None),
        ("/exp/300/a.mp4", None),
        ("/e/<-1>/se/<-1>/a.mp4", None),
        ("/expires/soon/<-1>", None),
        ("/a#expires=<300>", None),
        ("/a?b=c#t=<300>", None),
        ("/a?e=<900>#e=<300>", Some(900)),
        ("/?expires=<300>", Some(300)),
        ("?expires=<300>", Some(300)),
        ("", None),
        ("/", None),
    ] {
        assert_eq!(seconds(rest), expected, "{rest}");
    }
    // A host's name is no value, and a port is none.
    assert_eq!(life_left(&written("https://<300>.example:1200/"), date()), None);
}

#[test]
fn look_alikes_bound_nothing() {
    let texts = r#"
        Expiry as a part of a word, or with words beside it that make another of it:
            expand=1 expand=<-1> next=<-1> text=<-1> index=600 experiment=1 export=<-1> expose=1 expert=300
            expected=<-5> explicit=1 case=300 release=<-1> false=300 base=<-1> unti=1 complex=30 apex=60 size_e=17
            typeE=17 expires_in_days=7 expires_policy=<-1> deadlines=<-1> epoch=<-1> time=<-1> last-modified=<-1>
            dateGreaterThan=<-1> expat=1 expired=1 used=300 expires-header=300 e2=300 ttl=300 max-age=300
        No points of time where there might be some:
            e=abc ex=abc e=ff8800 e=ff8800ff ex=d41d8cd98f00b204e9800998ecf8427e expires= expires expires=never
            expires=-1 expires=-<1> expires=-<300> expires=a;-<300> expires=0x expires=1e3 expires=session
            expires=99999999999999999999999999 expires=32503680000 expires=9999999999999999999 expires=true
            exp=2025-11-26 exp=20251126 se=tomorrow until=0001-01-01T00:00:00Z e=%FF%FE exp=12:30:00 exp=1.2.3.4
            e=Mon,+26+Bar+2025 expires=2025-11-26T01 expires=2025-11-26T01:99:00Z expires=1,5 deadline=a;b
            expires=s expires=5x expires=P exp=00:05:00
        Signing times, and points further off:
            t=<1> t=<0> t=<-1> iat=<2> nbf=<0> st=<1> ts=<ms 1> X-Amz-Meta-Date=<basic -5> issued=<iso 1> is=<hex 1>
            a=<1>;<1> range=<-300>;<0> token=«jwt {"iat":<1>,"nbf":<1>}» refresh=<86400> b=<iso 3600>
            valid_from=<2> t=<1>-c2ln= t=<-1>.c2ln== auth=iat:<-1>%20sig=ab x=urn:iat:<0>:k=v
            <0>-c2ln= <-1>=a t=300s c=<http -5> timestamp=<us 0>
        Numbers that are something else:
            size=1764120000 v=<-1> v=1764120000 width=600 height=1200 id=1764 id=17641203000 n=176412030 part=300
            port=8080 q=80&w=1200&h=900 versionId=3sL4kqtJlcpXroDTDmJ phone=491764120300 f=1764120000.x
            list=1,2,300,600 etag=%22692656ec0%22 uuid=692656e-1c2d-4e3f-8a9b-0c1d2e3f4a5b c=%23ff8800
            sha=692656ec692656ec date=2025-11-26 response-content-disposition=attachment%3B%20filename%3D%22a.png%22
        Base64 that is no JSON, JSON that is cut off, JSON without a point:
            token=eyJ token=eyJhbGciOiJIUzI1NiJ9 token=e30 token=W10 token=ZXhwPTE3NjQxMjAzMDA p=%7B%22exp%22%3A
            Policy=eyJTdGF0ZW1lbnQi_ token=«jwt {"exp":"never"}» token=«jwt {"exp":null}» token=«jwt {"exp":true}»
            token=«jwt {"exp":-300}» token=«jwt {"exp":1e300}» token=«jwt {"sub":"1764"}» Signature=eW91~cnM-_
        What is in links besides:
            X-Amz-Credential=AKIA%2F20251126%2Fauto%2Fs3%2Faws4_request alt=media&token=2f7c1d3e-aaaa-1764120300ab
            token=abc sv=2024-08-04&sr=b a = == && % %zz ? ; ~ =;=~=
    "#;
    let lines = texts.lines().filter(|line| !line.ends_with(':'));
    // A token's JSON has a blank before it.
    let queries = lines.flat_map(|line| line.split_whitespace()).fold(Vec::<String>::new(), |mut queries, word| {
        match queries.last_mut() {
            Some(last) if is_open(last) => *last += &format!(" {word}"),
            _ => queries.push(word.to_owned()),
        }
        queries
    });
    assert!(queries.len() > 120, "{}", queries.len());
    // An end that is further off bounds nothing, either.
    let bounding = queries.iter().filter(|query| seconds(query).is_some_and(|left| left < LIFE.as_secs()));
    let bounding: Vec<&String> = bounding.collect();
    assert!(bounding.is_empty(), "{bounding:#?}");
}

fn is_open(text: &str) -> bool {
    [('<', '>'), ('«', '»')].iter().any(|(open, close)| text.matches(*open).count() > text.matches(*close).count())
}

#[test]
fn the_most_nested_of_links_is_read_to_its_end() {
    // Recursion as deep as the text is long would end the process; work that doubles with each level would not end.
    let nested = |open: &str| open.repeat(8 * 1024 / open.len());
    for text in [
        nested("a="),
        nested("exp="),
        nested("e:"),
        nested("%25"),
        nested("{"),
        nested("[["),
        nested("{\"exp\":"),
        nested("eyJ"),
        nested("e"),
        nested("W"),
        nested("-"),
        nested("&exp"),
        nested("a-date&"),
        nested("x-date=1&x-expires=1&"),
        nested(";="),
        nested("%7B"),
        nested("exp/"),
        nested("e30."),
        nested("1;"),
        nested("Mon,"),
        nested("%"),
        nested("e=~"),
        nested("+"),
    ] {
        let _ = life_left(&format!("https://h.example/{text}?{text}"), date());
        let mut deep = text;
        for _ in 0..4 {
            deep = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"a\":{}}}", Value::from(deep)));
        }
        let _ = life_left(&format!("https://h.example/a?{deep}"), date());
    }
}

/// Texts as signers write them, and pieces of such.
fn parameters() -> impl Strategy<Value = Vec<String>> {
    let name = prop::sample::select(vec![
        "expires",
        "x-expires",
        "e",
        "exp",
        "se",
        "t",
        "st",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Goog-Date",
        "X-Goog-Signature",
        "token",
        "Policy",
        "hdnts",
        "q-sign-time",
        "size",
        "auth_key",
        "DateGreaterThan",
        "",
    ]);
    let form = prop::sample::select(vec!["", "ms ", "hex ", "iso ", "basic ", "http "]);
    let point = (form, -2000i64..2000).prop_map(|(form, at)| format!("<{form}{at}>"));
    let value = prop_oneof![
        4 => point.clone(),
        1 => (point.clone(), "[;~,|_-]", point.clone()).prop_map(|(one, mark, other)| format!("{one}{mark}{other}")),
        1 => (point.clone(), point.clone()).prop_map(|(one, other)| format!("st={one}~exp={other}")),
        1 => (point.clone(), point).prop_map(|(one, other)| format!("«jwt {{\"iat\":\"{one}\",\"exp\":\"{other}\"}}»")),
        1 => "[0-9]{1,12}",
        1 => "[0-9a-zA-Z%+=;~.:_-]{0,30}",
    ];
    prop::collection::vec((name, value).prop_map(|(name, value)| written(&format!("{name}={value}"))), 1..5)
}

fn capped(left: Option<Duration>) -> Duration {
    left.unwrap_or(LIFE).min(LIFE)
}

#[test]
fn ends_hold_whatever_stands_beside_them_and_in_whatever_order() {
    let bounded = AtomicU32::new(0);
    let second = Duration::from_secs(1);
    proptest!(|(parameters in parameters(), end in 1u64..1200)| {
        let of = |parameters: &[String], date: Timestamp| {
            life_left(&format!("https://h.example/a?{}", parameters.join("&")), date)
        };
        let left = of(&parameters, date());
        bounded.fetch_add(u32::from(left.is_some_and(|left| !left.is_zero() && left < LIFE)), Ordering::Relaxed);

        let mut other: Vec<String> = parameters.iter().rev().cloned().collect();
        prop_assert_eq!(of(&other, date()), left, "the order matters");
        prop_assert!(left.is_none_or(|left| left > LIFE || left.subsec_nanos() == 0), "a part of a second");

        // One more parameter takes life or leaves it as it is.
        other.push(written(&format!("expires=<{end}>")));
        let bound = Duration::from_secs(end);
        prop_assert_eq!(of(&other, date()), Some(left.map_or(bound, |left| left.min(bound))));

        // A second later at most one second of life is gone, and a link that has ended stays so.
        let later = of(&parameters, date() + second);
        prop_assert!(capped(later) + second >= capped(left), "{:?}, a second later {:?}", left, later);
        prop_assert!(left != Some(Duration::ZERO) || later == left, "alive again: {:?}", later);
    });
    // Of 256; else the generator has lost its way.
    let bounded = bounded.load(Ordering::Relaxed);
    assert!(bounded > 40, "only {bounded} had an end within 20 minutes");
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "[ -~]{0,200}", second in -377_705_023_201i64..=253_402_207_200) {
        let date = Timestamp::from_second(second).unwrap();
        let _ = life_left(&format!("https://h.example/{text}"), date);
        let _ = life_left(&format!("https://h.example/a?{text}"), date);
    }
}
