//! What to do about each alert, as docs/monitoring.md has it, for a browser that reaches nothing else.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::page::STYLE;
use crate::web::policy;

const PAGE: &str = include_str!("../../../docs/monitoring.md");

pub(super) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy::for_page(STYLE, None));

/// The rows of the table below `### Alert runbook`, without its two lines of head.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let section = PAGE.split("### Alert runbook").nth(1).unwrap_or_default();
    let lines = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    lines.skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// Markdown as far as the table has it: code, bold, and links, of which the words are left.
fn inline(text: &str) -> Markup {
    let mut is_code = true;
    html! {
        @for part in text.split('`') {
            @if { is_code = !is_code; is_code } { code { (part) } } @else { (without_links(&part.replace("**", ""))) }
        }
    }
}

fn without_links(text: &str) -> String {
    let mut parts = text.split("](");
    let mut said = parts.next().unwrap_or_default().replace('[', "");
    for part in parts {
        said.push_str(&part.split_once(')').map_or(part, |(_, rest)| rest).replace('[', ""));
    }
    said
}

pub(super) fn render() -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "kielink: alert runbook" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { "Alert runbook" } p { a href="status" { "status" } } }
                main.runbook {
                    @for row in rows() {
                        @match row.as_slice() {
                            [alert, means, look, act] if !means.is_empty() => section #(alert) {
                                h2 { (alert) }
                                p { (inline(means)) }
                                dl { dt { "Look at" } dd { (inline(look)) } dt { "Do" } dd { (inline(act)) } }
                            },
                            [heading, ..] => p.note { (inline(heading)) },
                            [] => {}
                        }
                    }
                }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alert_of_the_page_is_there_and_no_markdown() {
        let page = render();
        let alerts = include_str!("../../../deploy/monitoring/alerts.yml");
        let named: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        assert!(named.len() > 10);
        for alert in named {
            assert!(page.contains(&format!("<h2>{alert}</h2>")), "{alert}");
        }
        for mark in ["](", "**", "`"] {
            assert!(!page.contains(mark), "{mark}: {page}");
        }
    }

    #[test]
    fn words_of_links_are_left_and_code_is_code() {
        assert_eq!(
            inline("as [it `says`](x.md#y), `a` **b**").into_string(),
            "as it <code>says</code>, <code>a</code> b"
        );
    }
}
