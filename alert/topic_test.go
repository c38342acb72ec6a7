package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/outcome"
)

// addTopic makes another topic, with a queue that subscribes to it.
func (w *world) addTopic(t *testing.T, name string, format Format) (queue string) {
	t.Helper()
	topic, err := w.topics.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: &name})
	if err != nil {
		t.Fatal(err)
	}
	first := w.Topics[0]
	w.Topics[0] = Topic{ARN: *topic.TopicArn, Format: format}
	queue = w.subscribe(t, name, nil)
	w.Topics = append([]Topic{first}, append(w.Topics[1:], w.Topics[0])...)
	return queue
}

func TestFormats(t *testing.T) {
	w := newWorld(t)
	text, machine, chat := w.addTopic(t, "text", FormatText), w.addTopic(t, "json", FormatJSON), w.addTopic(t, "chat", FormatChat)
	a := deletion()
	if err := w.Publish(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	raw, err := a.JSON()
	if err != nil {
		t.Fatal(err)
	}
	notification, err := a.Chat()
	if err != nil {
		t.Fatal(err)
	}
	for queue, want := range map[string]string{w.queue: string(raw), text: a.Text(), machine: string(raw), chat: string(notification)} {
		got := w.received(t, queue)
		if len(got) != 1 {
			t.Fatalf("%d messages", len(got))
		}
		if diff := cmp.Diff(want, *got[0].Body); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
}

func TestFormatNames(t *testing.T) {
	for _, r := range renderers {
		var got Format
		if err := got.UnmarshalText([]byte(r.format.name)); err != nil || got != r.format {
			t.Errorf("%v: got %v, %v", r.format, got, err)
		}
	}
	if got := (Format{}).renderer().format; got != FormatAuto {
		t.Errorf("the default is %v", got)
	}
	if err := new(Format).UnmarshalText([]byte("slack")); err == nil || !strings.Contains(err.Error(), "chat") {
		t.Errorf("an unknown format: %v", err)
	}
}

// TestFormatsEscape: no format shows characters from outside that nobody sees, or lines
// that are not ours.
// TestFormatsRenderEveryKind: each format has something to say about each recorded
// example, of which there is one for each kind.
func TestFormatsRenderEveryKind(t *testing.T) {
	text, err := os.ReadFile("../internal/cli/examples.json")
	if err != nil {
		t.Fatal(err)
	}
	var examples []Alert
	if err := json.Unmarshal(text, &examples); err != nil || len(examples) == 0 {
		t.Fatalf("%d examples: %v", len(examples), err)
	}
	for _, a := range examples {
		for _, r := range renderers {
			if message, err := r.render(a); err != nil || len(message) == 0 {
				t.Errorf("%v of %s: %q, %v", r.format, a.Kind, message, err)
			}
		}
	}
}

func TestFormatsEscape(t *testing.T) {
	a := complete()
	a.Title += "\nFROM: \x1b[2J\u202e"
	for _, r := range renderers {
		message, err := r.render(a)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(message), "\n") {
			if strings.HasPrefix(line, "FROM:") || strings.ContainsFunc(line, func(c rune) bool { return !visible(c) }) {
				t.Errorf("%v has the line %+q", r.format, line)
			}
		}
	}
}

// TestFormatsDocument keeps the list of formats in docs/alerts.md true. With
// UPDATE_DOCS=1 it writes it.
func TestFormatsDocument(t *testing.T) {
	const path, from, until = "../docs/alerts.md", "go test ./alert -run FormatsDocument -->\n", "\n<!-- end of formats -->"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), from)
	_, after, ok2 := strings.Cut(rest, until)
	if !ok || !ok2 {
		t.Fatal("the marks of the formats are missing")
	}
	list := "\n| format | what the topic's subscribers get |\n|---|---|\n"
	for _, r := range renderers {
		list += fmt.Sprintf("| `%s` | %s |\n", r.format.name, r.about)
	}
	want := before + from + list + until + after
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("%s is not true any more; UPDATE_DOCS=1 go test ./alert -run FormatsDocument writes it:\n%s", path, diff)
	}
}

func TestNoTopic(t *testing.T) {
	w := newWorld(t)
	w.Topics = nil
	if err := w.Publish(t.Context(), deletion()); err == nil {
		t.Error("an alert that nobody gets counts as told")
	}
}

// TestOneTopicFails has a topic that cannot be published to: the others get the alert
// once, however often it is tried again, and that one gets it when it can.
func TestOneTopicFails(t *testing.T) {
	w := newWorld(t)
	chat := w.addTopic(t, "chat", FormatChat)
	broken := true
	w.SNS = snsFunc(func(ctx context.Context, in *sns.PublishInput) (*sns.PublishOutput, error) {
		if broken && strings.HasSuffix(*in.TopicArn, ":chat") {
			return nil, errors.New("broken")
		}
		return w.topics.Publish(ctx, in)
	})
	for range 3 {
		if err := w.Publish(t.Context(), deletion()); err == nil || !strings.Contains(err.Error(), ":chat: broken") {
			t.Fatalf("got %v", err)
		}
	}
	w.expect(t, "the topic that works", 1)
	list, err := w.Undelivered(t.Context())
	if err != nil || len(list) != 1 || list[0].Alert.ID != deletion().ID || !strings.Contains(list[0].Cause, "broken") {
		t.Fatalf("undelivered: %+v, %v", list, err)
	}

	if err := w.Resume(t.Context()); err != nil { // it is still broken: logged and kept
		t.Fatal(err)
	}
	broken = false
	for range 2 {
		if err := w.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.received(t, chat)); n != 1 {
		t.Errorf("the topic that failed has %d messages", n)
	}
	w.expect(t, "the topic that works, afterwards", 0)
	if list, err := w.Undelivered(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("undelivered: %+v, %v", list, err)
	}
	if err := w.Publish(t.Context(), deletion()); err != nil { // the message comes back after all
		t.Fatal(err)
	}
	w.expect(t, "told already", 0)
}

// TestUndeliveredThenTold has an alert that its message's next try tells: nobody
// has to send it again.
func TestUndeliveredThenTold(t *testing.T) {
	w := newWorld(t)
	w.SNS = snsFunc(func(context.Context, *sns.PublishInput) (*sns.PublishOutput, error) { return nil, errors.New("broken") })
	if err := w.Publish(t.Context(), deletion()); err == nil {
		t.Fatal("no error")
	}
	w.SNS = w.topics
	if err := w.Publish(t.Context(), deletion()); err != nil {
		t.Fatal(err)
	}
	if list, err := w.Undelivered(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("undelivered: %+v, %v", list, err)
	}
	if err := w.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "told by the second try", 1)
}

func TestStoppedIsNotUndelivered(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.SNS = snsFunc(func(ctx context.Context, _ *sns.PublishInput) (*sns.PublishOutput, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if err := w.Publish(ctx, deletion()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if list, err := w.Undelivered(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("undelivered: %+v, %v", list, err)
	}
}

func TestOngoingIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Repeat = 24 * time.Hour
		lasts, event := sparse(), deletion()
		lasts.Ongoing = true
		for hour := range 49 {
			for _, a := range []Alert{lasts, event} {
				if err := w.Publish(t.Context(), a); err != nil {
					t.Fatalf("hour %d: %v", hour, err)
				}
			}
			time.Sleep(time.Hour)
		}
		w.expect(t, "two days", 1+3)
		w.Repeat = 0
		time.Sleep(30 * 24 * time.Hour)
		if err := w.Publish(t.Context(), lasts); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "never again", 0)
	})
}

func TestPublishToSeveralAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Topics = append(w.Topics, Topic{ARN: w.Topics[0].ARN + "-b"}, Topic{ARN: w.Topics[0].ARN + "-c"})
		w.SNS = snsFunc(func(context.Context, *sns.PublishInput) (*sns.PublishOutput, error) {
			time.Sleep(10 * time.Second)
			return &sns.PublishOutput{}, nil
		})
		start := time.Now()
		if err := w.Publish(t.Context(), deletion()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("a slow topic holds up the others: %s", took)
		}
	})
}

func TestPublishAgainWaitsForATopicInHand(t *testing.T) {
	w := newWorld(t)
	w.addTopic(t, "chat", FormatChat)
	name, err := deletion().name()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.Claim(t.Context(), name+"."+w.Topics[1].name()+".json", claimTime); err != nil {
		t.Fatal(err)
	}
	if d := outcome.Of(w.Publish(t.Context(), deletion())); d.Action != outcome.Delay {
		t.Errorf("got %v", d)
	}
}

// chatOf decodes what a chat gets.
func chatOf(t *testing.T, a Alert) chatMessage {
	t.Helper()
	raw, err := a.Chat()
	if err != nil {
		t.Fatal(err)
	}
	var m chatMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestChat(t *testing.T) {
	a := deletion()
	m := chatOf(t, a)
	if m.Version != "1.0" || m.Source != "custom" || m.Content.TextType != "client-markdown" {
		t.Errorf("the envelope is %+v", m)
	}
	want := chatMetadata{
		ThreadID: a.Key.ARN, Summary: a.Subject(), EventType: "deletion", RelatedResources: []string{a.Key.ARN},
		Context: chatContext{Schema: Schema, Severity: "critical", Account: "111122223333", Region: "eu-central-1"},
	}
	if diff := cmp.Diff(want, m.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if m.Content.Title != "[CRITICAL] Key scheduled for deletion: alias/payments" {
		t.Errorf("title %q", m.Content.Title)
	}
	if got := m.Content.NextSteps[1]; got != "`"+a.Next[1]+"`" {
		t.Errorf("a command is shown as %q", got)
	}
	golden(t, "chat.txt", chatOf(t, complete()).Content.Description+"\n")
	if got := chatOf(t, complete()).Metadata.ThreadID; got != "incident/1" {
		t.Errorf("thread %q", got)
	}
	if got := chatOf(t, sparse()).Metadata.ThreadID; got != sparse().ID {
		t.Errorf("thread %q", got)
	}
}

func TestChatEscapes(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ü, snake_case":          "plain, ü, snake_case",
		"<!channel> <@U1> <http://e|x>": "&lt;!channel&gt; &lt;＠U1&gt; &lt;http:∕∕e∣x&gt;",
		"*bold* ~gone~ `code` _it_":     "∗bold∗ ∼gone∼ 'code' ＿it＿",
		"[click](https://example.com)":  "(click)(https:∕∕example.com)",
		"a & b":                         "a &amp; b",
		"two\nlines\u202e":              `two\nlines\u202e`,
	} {
		if got := plainChat(in); got != want {
			t.Errorf("plainChat(%q) = %q, want %q", in, got, want)
		}
	}
	if got := codeChat("a`b <c> \n"); got != "`a'b &lt;c&gt; \\n`" {
		t.Errorf("codeChat: %q", got)
	}
}

func TestChatIsCut(t *testing.T) {
	a := huge()
	a.Title = strings.Repeat("ü", 400)
	a.Next = []string{"aws " + strings.Repeat("x", 2000)}
	for range 40 {
		a.Next = append(a.Next, strings.Repeat("y", 2000))
	}
	m := chatOf(t, a)
	if n := utf8.RuneCountInString(m.Content.Title); n > chatTitle {
		t.Errorf("title of %d characters", n)
	}
	if n := utf8.RuneCountInString(m.Content.Description); n > chatDescription || !strings.Contains(m.Content.Description, "more") {
		t.Errorf("description of %d characters", n)
	}
	if n := len(m.Content.NextSteps); n != chatSteps+1 || strings.Contains(m.Content.NextSteps[0], "aws x") {
		t.Errorf("%d next steps, the first is %q", n, m.Content.NextSteps[0])
	}
}

func FuzzChat(f *testing.F) {
	f.Add("plain")
	f.Add("<!here> *x* `y` [z](http://e) \u202e\xff _a_")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range plainChat(s) {
			if strings.ContainsRune("<>*~`[]|#@", r) || !visible(r) {
				t.Fatalf("plainChat(%+q) has %U", s, r)
			}
		}
		if code := codeChat(s); strings.Count(code, "`") != 2 || strings.ContainsAny(code, "<>\n") {
			t.Fatalf("codeChat(%+q) = %+q", s, code)
		}
		a := Alert{ID: s, Title: s, Summary: s, Next: []string{s, "aws " + s}, Key: &Key{ARN: s}, Actor: &Actor{Name: s}, Findings: []finding.Finding{{ID: finding.NoEffect, Severity: finding.Severity(s), Statement: s, Principal: s, Message: s}}}
		if raw, err := a.Chat(); err != nil || !json.Valid(raw) {
			t.Fatalf("%s, %v", raw, err)
		}
	})
}
