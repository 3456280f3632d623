//! The page: HTML that needs no script. Pure.
//!
//! Everything goes through maud, which escapes every text; only the style, which is ours, does not.

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};
use serde_json::Value;

use crate::web::query;

/// Stands for the host in the commands; no text of the document can hold it.
pub(super) const HOST: &str = "\u{1}host\u{1}";

pub(super) const STYLE: &str = include_str!("page.css");

/// The whole page. A document of another shape makes a page with gaps, not a panic.
pub(super) fn render(document: &str) -> String {
    let document: Value = serde_json::from_str(document).expect("the embedded document is JSON; tests read it");
    let info = &document["info"];
    let (title, version) = (text(&info["title"]), text(&info["version"]));
    let paths = || fields(&document["paths"]).filter_map(|(path, operations)| Path::new(path, operations));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " " (version) ": the interface for callers" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) " " small { (version) } }
                    p.lead { (inline(text(&info["summary"]))) }
                    (prose(text(&info["description"])))
                }
                nav aria-label="Contents" {
                    ul {
                        @for path in paths() {
                            li { a href={ "#" (anchor(path.path)) } { (path.methods()) code { (path.path) } } " " span { (path.summary()) } }
                        }
                        li { a href="#errors" { "Errors" } }
                        li { a href="#shapes" { "Shapes" } }
                    }
                }
                main {
                    @for path in paths() { (path.section(&document)) }
                    (errors(&document))
                    (shapes(&document))
                }
                footer { p { "The same for programs: " a href="/openapi.json" { "/openapi.json" } } }
            }
        }
    };
    page.into_string()
}

/// One path. `HEAD` says what `GET` says, so the first operation speaks for both.
struct Path<'a> {
    path: &'a str,
    operations: &'a Value,
    method: &'a str,
    operation: &'a Value,
}

impl<'a> Path<'a> {
    fn new(path: &'a str, operations: &'a Value) -> Option<Path<'a>> {
        let (method, operation) = fields(operations).next()?;
        Some(Path { path, operations, method, operation })
    }

    fn section(&self, document: &Value) -> Markup {
        html! {
            section id=(anchor(self.path)) {
                h2 { (self.methods()) a href={ "#" (anchor(self.path)) } { code { (self.path) } } }
                p.lead { (self.summary()) }
                (prose(text(&self.operation["description"])))
                pre.command { code { (self.command(document)) } }
                (self.request(document))
                (self.answers(document))
            }
        }
    }

    /// Each method with a space behind it.
    fn methods(&self) -> Markup {
        html! {
            @for (method, _) in fields(self.operations) { b.method { (method.to_uppercase()) } " " }
        }
    }

    fn summary(&self) -> Markup {
        inline(text(&self.operation["summary"]))
    }

    /// What to type, for the host that the page was asked at.
    fn command(&self, document: &Value) -> String {
        let Path { path, method, operation, .. } = self;
        let query: String = items(&operation["parameters"])
            .iter()
            .map(|parameter| resolved(parameter, document))
            .filter(|it| text(&it["in"]) == "query" && is_required(it))
            .map(|it| (text(&it["name"]), query::encoded(text(&it["example"]))))
            .map(|(name, value)| format!("?{name}={value}"))
            .collect();
        match *method {
            "post" => format!("curl -i http://{HOST}{path} -d '{}'", self.body()["example"]),
            _ => format!("curl -i 'http://{HOST}{path}{query}'"),
        }
    }

    fn body(&self) -> &'a Value {
        &self.operation["requestBody"]["content"]["application/json"]
    }

    fn request(&self, document: &Value) -> Markup {
        let parameters = items(&self.operation["parameters"]);
        let schema = &self.body()["schema"];
        let body = resolved(schema, document);
        html! {
            @if !(parameters.is_empty() && schema.is_null()) {
                h3 { "Request" }
                dl {
                    @for (name, field) in fields(&body["properties"]) {
                        @let note = format!("body, {}", necessity(requires(body, name)));
                        (term(name, &note, resolved(field, document)))
                    }
                    @for parameter in parameters.iter().map(|parameter| resolved(parameter, document)) {
                        @let note = format!("{}, {}", text(&parameter["in"]), necessity(is_required(parameter)));
                        (term(text(&parameter["name"]), &note, parameter))
                    }
                }
            }
        }
    }

    fn answers(&self, document: &Value) -> Markup {
        let answers = fields(&self.operation["responses"]);
        let answers = answers.map(|(status, answer)| (status, resolved(answer, document)));
        let (good, bad): (Vec<_>, Vec<_>) = answers.partition(|(status, _)| status.starts_with(['2', '3']));
        let statuses: Vec<&str> = bad.iter().map(|(status, _)| *status).collect();
        html! {
            h3 { "Answers" }
            @for (status, answer) in good {
                p { b { (status) } " " (description(answer)) }
                @for (media_type, content) in fields(&answer["content"]) {
                    (examples(document, media_type, content))
                }
                (headers(document, answer))
            }
            // Errors are much alike everywhere, and would hide what is not.
            details {
                summary { "Errors: " (statuses.join(" ")) }
                table {
                    thead { tr { th { "Status" } th { "When" } } }
                    tbody {
                        @for (status, answer) in bad {
                            tr { td { (status) } td { (description(answer)) " " (kinds(answer)) } }
                        }
                    }
                }
            }
        }
    }
}

fn anchor(path: &str) -> String {
    let words = path.split(|it: char| !it.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// The types of problem that an answer may have.
fn kinds(answer: &Value) -> Markup {
    let examples = fields(&answer["content"]).flat_map(|(_, content)| fields(&content["examples"]));
    let mut kinds: Vec<&str> = examples.map(|(slug, _)| slug).collect();
    kinds.dedup();
    html! {
        @for (n, slug) in kinds.iter().enumerate() {
            @if n > 0 { ", " }
            a href={ "#" (slug) } { code { (slug) } }
        }
    }
}

fn examples(document: &Value, media_type: &str, content: &Value) -> Markup {
    let one = [("", &content["example"])];
    let many = fields(&content["examples"]).map(|(_, it)| resolved(it, document));
    let many = many.map(|it| (text(&it["summary"]), &it["value"]));
    html! {
        @for (summary, value) in one.into_iter().filter(|(_, it)| !it.is_null()).chain(many) {
            p.caption { code { (media_type) } " " (inline(summary)) }
            pre { code { (shown(value)) } }
        }
    }
}

fn headers(document: &Value, answer: &Value) -> Markup {
    html! {
        details {
            summary { "Headers" }
            dl {
                @for (name, header) in fields(&answer["headers"]) {
                    @let header = resolved(header, document);
                    @let constant = &header["schema"]["const"];
                    @let example = if constant.is_null() { &header["example"] } else { constant };
                    @let note = if example.is_null() { String::new() } else { shown(example) };
                    (term(name, &note, header))
                }
            }
        }
    }
}

/// The problems, each with when it comes and what to do.
fn errors(document: &Value) -> Markup {
    let examples = &document["components"]["examples"];
    html! {
        section #errors {
            h2 { "Errors" }
            p {
                "Under " code { "/v1/" } " a problem document, whose " code { "type" } " is " code { "urn:kielink:problem:" }
                " and a word of this table; under " code { "/api/" } " kie.ai's envelope with the same status."
            }
            @for name in ["source-refused", "kie-source-refused"] {
                pre { code { (shown(&examples[name]["value"])) } }
            }
            table.errors {
                thead { tr { th { "Type" } th { "Status" } th { "When, and what to do" } } }
                tbody {
                    @for (slug, example) in fields(examples) {
                        @if let Some(status) = example["value"]["status"].as_i64() {
                            tr id=(slug) { td { code { (slug) } } td { (status) } td { (inline(text(&example["summary"]))) } }
                        }
                    }
                }
            }
        }
    }
}

fn shapes(document: &Value) -> Markup {
    html! {
        section #shapes {
            h2 { "Shapes" }
            @for (name, schema) in fields(&document["components"]["schemas"]) {
                h3 id={ "shape-" (name) } { (name) }
                (prose(text(&schema["description"])))
                @if !schema["oneOf"].is_null() {
                    p { (either(&schema["oneOf"])) }
                }
                @if !schema["properties"].is_null() {
                    dl {
                        @for (field, its) in fields(&schema["properties"]) {
                            @let note = html! { (kind(its)) ", " (necessity(requires(schema, field))) };
                            (term(field, note, if its["description"].is_null() { resolved(its, document) } else { its }))
                        }
                    }
                }
            }
        }
    }
}

fn term(name: &str, note: impl Render, described: &Value) -> Markup {
    html! {
        dt { code { (name) } " " small { (note) } }
        dd { (description(described)) }
    }
}

fn description(described: &Value) -> Markup {
    inline(text(&described["description"]))
}

/// A type as a reader says it.
fn kind(schema: &Value) -> Markup {
    let name = text(&schema["$ref"]).rsplit('/').next().unwrap_or_default();
    let constant = &schema["const"];
    html! {
        @if !name.is_empty() {
            a href={ "#shape-" (name) } { (name) }
        } @else if !constant.is_null() {
            code { (constant.to_string()) }
        } @else if text(&schema["type"]) == "array" {
            "list of " (kind(&schema["items"]))
        } @else if !schema["anyOf"].is_null() {
            (either(&schema["anyOf"]))
        } @else {
            (text(&schema["type"]))
        }
    }
}

fn either(schemas: &Value) -> Markup {
    html! {
        @for (n, schema) in items(schemas).iter().enumerate() {
            @if n > 0 { " or " }
            (kind(schema))
        }
    }
}

fn is_required(parameter: &Value) -> bool {
    parameter["required"] == true
}

fn requires(schema: &Value, field: &str) -> bool {
    items(&schema["required"]).iter().any(|name| name == field)
}

fn necessity(is_required: bool) -> &'static str {
    if is_required { "required" } else { "optional" }
}

/// An example as it comes over the wire, but for the line breaks.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| format!("{value:#}"), str::to_owned)
}

/// Paragraphs, with an empty line between them.
fn prose(text: &str) -> Markup {
    html! {
        @for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) { p { (inline(paragraph)) } }
    }
}

/// A text in which backticks mark code: all of CommonMark that the document uses.
fn inline(text: &str) -> Markup {
    html! {
        @for (n, part) in text.split('`').enumerate() {
            @if n % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// Empty where it is no text.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Nothing where it is no list.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// In the document's order; nothing where it is no object.
fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// What a `$ref` in `value` leads to (`#/components/…`), or `value` itself.
fn resolved<'a>(value: &'a Value, document: &'a Value) -> &'a Value {
    match text(&value["$ref"]).strip_prefix("#/") {
        Some(path) => path.split('/').fold(document, |value, name| &value[name]),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{super::super::openapi::DOCUMENT, *};

    fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!(" {name}=\"");
        page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[test]
    fn texts_cannot_become_markup() {
        let hostile = r##"{"info":{"title":"<script>","version":"\"'&","summary":"a`<b>`"},"paths":{"/x\"><img>":{
            "get":{"summary":"<i>","description":"`a` & <p>\n\n</main>","parameters":[{"name":"<u>","in":"\"",
            "description":"<s>"}],"responses":{"200":{"description":"<em>","content":{"<a>":{"example":"</pre>"}}}}}}}}"##;
        let page = render(hostile);
        for markup in ["<script", "<b>`", "<img", "<i>", "<u>", "<s>", "<em>", "</pre></", "\"'&"] {
            assert!(!page.contains(markup), "{markup}: {page}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("a<code>&lt;b&gt;</code>"), "{page}");
        assert!(page.contains("<p>&lt;/main&gt;</p>"), "{page}");
    }

    #[test]
    fn an_example_has_the_order_in_which_it_was_written() {
        let text = r#"{"z":[1,-2,null,true,"é\n"],"a":{"z":{},"a":[]}}"#;
        let json: Value = serde_json::from_str(text).unwrap();
        assert_eq!(json.to_string(), text);
        assert_eq!(fields(&json).map(|(name, _)| name).collect::<String>(), "za");
    }

    #[test]
    fn references_are_followed() {
        let json: Value =
            serde_json::from_str(r##"{"a":{"b":"here"},"c":{"$ref":"#/a/b"},"d":{"$ref":"#/e"}}"##).unwrap();
        assert_eq!(resolved(&json["c"], &json), "here");
        assert!(resolved(&json["d"], &json).is_null());
        assert_eq!(resolved(&json["a"], &json), &json["a"]);
    }

    #[test]
    fn it_shows_every_operation_parameter_problem_and_shape() {
        let page = render(DOCUMENT);
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let components = &document["components"];
        for (path, _) in fields(&document["paths"]) {
            assert!(page.contains(&format!("<section id=\"{}\">", anchor(path))), "{path}");
            assert!(page.contains(&format!("http://{HOST}{path}")), "{path} has no command");
        }
        for (_, parameter) in fields(&components["parameters"]) {
            let name = text(&parameter["name"]);
            assert!(page.contains(&format!("<dt><code>{name}</code>")), "{name}");
        }
        let problems = fields(&components["examples"]).filter(|(name, _)| !name.starts_with("kie-"));
        for (slug, _) in problems {
            assert!(page.contains(&format!("<tr id=\"{slug}\">")), "{slug}");
        }
        for (name, _) in fields(&components["schemas"]) {
            assert!(page.contains(&format!("<h3 id=\"shape-{name}\">")), "{name}");
        }
        for gap in ["<dd></dd>", "<li></li>", "<p></p>", "<code></code>", "<td></td>", ", ,", "<code>null</code>"] {
            assert!(!page.contains(gap), "{gap}");
        }
    }

    #[test]
    fn its_links_lead_somewhere_and_nothing_is_fetched() {
        let page = render(DOCUMENT);
        let ids = attributes(&page, "id");
        let distinct: HashSet<&str> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "an id stands there twice");
        for link in attributes(&page, "href") {
            let inside = link.strip_prefix('#').is_some_and(|id| distinct.contains(id));
            assert!(inside || link == "/openapi.json", "{link}");
        }
        for fetched in [" src=", "<link", "<script", "url(", "@import", "<iframe", " style=", " onclick"] {
            assert!(!page.contains(fetched), "{fetched}");
        }
    }

    #[test]
    fn commands_survive_a_shell() {
        let page = render(DOCUMENT);
        let commands = page.split("<pre class=\"command\"><code>").skip(1);
        for command in commands.map(|rest| rest.split("</code>").next().unwrap()) {
            assert!(command.starts_with("curl -i "), "{command}");
            // All that could mean something to a shell stands between one pair of quotes.
            let parts: Vec<&str> = command.split('\'').collect();
            assert!(parts.len() == 3 && parts[2].is_empty(), "{command}");
            assert!(!parts[0].contains(['$', '`', '*', '?', ';']), "{command}");
        }
    }
}
