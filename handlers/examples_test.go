package handlers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// examples are how one alert of each kind comes about, in the order of the document.
var examples = []struct {
	kind   alert.Kind
	record func(*testing.T) alert.Alert
}{
	{alert.KindRotation, playedRow("DisableKeyRotation/rotation", reaction.Enforce)},
	{alert.KindPolicy, published(func(w *world) {
		for _, alias := range []string{"alias/orders", "alias/payments", "alias/archive", "alias/mail"} {
			w.putPolicy(w.knownKey(alias), public)
			time.Sleep(10 * time.Second)
		}
	})},
	{alert.KindDeletion, playedRow("ScheduleKeyDeletion/deletion", reaction.Observe)},
	{alert.KindContainment, playedRow("PutKeyPolicy/containment", reaction.Enforce)},
	{alert.KindAlias, playedRow("UpdateAlias/alias", reaction.Observe)},
	{alert.KindReencryption, finishedJob},
	{alert.KindGuard, playedRow("StopLogging/tamper", reaction.Enforce)},
	{alert.KindIncident, published(func(w *world) {
		rotating, open, doomed := w.rotatingKey(180), w.knownKey("alias/payments"), w.knownKey("alias/archive")
		w.disableRotation(rotating)
		time.Sleep(40 * time.Second)
		w.putPolicy(open, public)
		time.Sleep(40 * time.Second)
		w.scheduleDeletion(doomed)
	})},
	{alert.KindAccess, played(playConfig(reaction.Enforce, play{}), func(w *world) {
		w.record("kms", "ScheduleKeyDeletion", `"errorCode":"AccessDenied","errorMessage":"not authorized","requestParameters":{"keyId":"`+w.knownKey("alias/orders")+`"}`)
	})},
	{alert.KindUse, playedRow("Decrypt/use", reaction.Enforce)},
	{alert.KindGrant, playedRow("CreateGrant/grant", reaction.Enforce)},
	{alert.KindMaterial, playedRow("ImportKeyMaterial/material", reaction.Enforce)},
	{alert.KindKeyStore, playedRow("DisconnectCustomKeyStore/key-store", reaction.Enforce)},
	{alert.KindTag, playedRow("TagResource/tags", reaction.Enforce)},
	{alert.KindEncryption, playedRow("PutBucketEncryption/defaults", reaction.Enforce)},
	{alert.KindPosture, played(observing(), func(w *world) {
		w.unmet()
		w.dirty()
		w.sweep()
	})},
}

// playedRow records the alert of a play of the event table.
func playedRow(key string, mode reaction.Mode) func(*testing.T) alert.Alert {
	return func(t *testing.T) alert.Alert {
		p, ok := plays[key]
		if name, _, _ := strings.Cut(key, "/"); !ok {
			p = failedUse(name)
		}
		return played(playConfig(mode, p), func(w *world) { p.do(w) })(t)
	}
}

// played records the last alert of what a world does.
func played(c reaction.Config, do func(*world)) func(*testing.T) alert.Alert {
	return func(t *testing.T) (recorded alert.Alert) {
		inWorld(t, c, func(w *world) {
			do(w)
			w.react()
			recorded = last(t, w.told.take())
		})
		return recorded
	}
}

// published records the last alert that arrives from a publisher which groups them.
func published(do func(*world)) func(*testing.T) alert.Alert {
	return func(t *testing.T) (recorded alert.Alert) {
		c := playConfig(reaction.Observe, play{})
		inWorld(t, c, func(w *world) {
			keeper := inprocess.Config(w.aws, region, keeperKey)
			topics, arn := sns.NewFromConfig(keeper), "arn:aws:sqs:"+region+":"+account+":inbox"
			topic := must(topics.CreateTopic(w.ctx, &sns.CreateTopicInput{Name: aws.String("alerts")})).TopicArn
			inbox := must(w.sqs.CreateQueue(w.ctx, &sqs.CreateQueueInput{QueueName: aws.String("inbox"), Attributes: map[string]string{
				"Policy": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"sns.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"` + arn + `"}]}`,
			}})).QueueUrl
			must(topics.Subscribe(w.ctx, &sns.SubscribeInput{TopicArn: topic, Protocol: aws.String("sqs"), Endpoint: &arn, Attributes: map[string]string{"RawMessageDelivery": "true"}}))
			buckets := s3.NewFromConfig(keeper, func(o *s3.Options) { o.UsePathStyle = true })
			publisher := &alert.Publisher{
				SNS: topics, Store: state.New(buckets, stateBucket, "cmkeeper/", account), Topics: []alert.Topic{{ARN: *topic, Format: alert.FormatJSON}},
				Grouping: &alert.Grouping{SQS: sqs.NewFromConfig(keeper), QueueURL: w.queue, Wait: 30 * time.Second, Interval: time.Minute},
			}
			w.router = w.newRouterWith(c, func(d *reaction.Deps) { d.Alerts, d.Digests = publisher, publisher })
			w.events() // of making these
			do(w)
			w.react()
			time.Sleep(2 * time.Minute)
			w.react()
			w.queue = *inbox
			var all []alert.Alert
			for _, body := range w.events() {
				var a alert.Alert
				if err := json.Unmarshal([]byte(body), &a); err != nil {
					t.Fatalf("%v in %s", err, body)
				}
				if noteNext(a); !isNote(a) {
					all = append(all, a)
				}
			}
			recorded = last(t, all)
		})
		return recorded
	}
}

func last(t *testing.T, alerts []alert.Alert) alert.Alert {
	t.Helper()
	if len(alerts) == 0 {
		t.Fatal("no alert")
	}
	a := alerts[len(alerts)-1]
	a.Cut = nil
	return a
}

// finishedJob records what a job says that moved a bucket.
func finishedJob(t *testing.T) (recorded alert.Alert) {
	inWorld(t, enforceAll(), func(w *world) {
		from, to := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		jobs := handlers.JobAlerts{Alerts: w.told, Account: account, Region: region, StateBucket: stateBucket}
		if err := jobs.Completed(w.ctx, reencrypt.Summary{
			Job: "20000101-0a1b2c3d4e5f", Alias: "arn:aws:kms:" + region + ":" + account + ":alias/app-orders", Bucket: "orders-data", From: []string{from}, To: to,
			State: reencrypt.StateComplete, Passes: 2, Started: time.Now().Add(-12 * time.Second), Finished: time.Now(),
			Counts: reencrypt.Counts{Scanned: 1200, Moved: 1197, Refused: 3, Bytes: 3 << 20, ByReason: map[reencrypt.Reason]int64{reencrypt.ReasonObjectLock: 3}},
			Report: "s3://" + stateBucket + "/cmkeeper/jobs/20000101-0a1b2c3d4e5f/report/",
		}); err != nil {
			t.Fatal(err)
		}
		recorded = w.one()
	})
	return recorded
}

// What differs from run to run, and from machine to machine.
var (
	randomID     = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{64}\b|\bcks-[0-9a-f]+|\bAKIA[A-Z0-9]+`)
	slotID       = regexp.MustCompile(`\b(\d{8}T\d{6}Z)-[A-Z2-7]{10}\b`)
	ownCalls     = regexp.MustCompile(`\d+ of these events are cmkeeper's own`)
	exampleAgent = regexp.MustCompile(`"user_agent": "[^"]*"`)
)

// settled gives what differs fixed values: ids in the order in which they come.
func settled(text []byte) []byte {
	seen := map[string]string{}
	text = exampleAgent.ReplaceAll(text, []byte(`"user_agent": "aws-cli/2.31"`))
	text = slotID.ReplaceAll(text, []byte("$1-ABCDEFGHIJ"))
	text = ownCalls.ReplaceAll(text, []byte("9 of these events are cmkeeper's own")) // it reads some facts at the same time
	return randomID.ReplaceAllFunc(text, func(id []byte) []byte {
		if _, ok := seen[string(id)]; !ok {
			seen[string(id)] = fmt.Sprintf("0a1b2c3d-0000-4000-8000-%012d", len(seen)+1)
			if bytes.HasPrefix(id, []byte("cks-")) {
				seen[string(id)] = fmt.Sprintf("cks-%017d", len(seen))
			}
		}
		return []byte(seen[string(id)])
	})
}

// TestExamplesAreRecorded keeps the examples of alerts true: those that "cmkeeper alerts
// test" sends, and docs/alert-examples.md. With UPDATE_DOCS=1 it writes both.
func TestExamplesAreRecorded(t *testing.T) {
	var recorded []alert.Alert
	for _, e := range examples {
		a := e.record(t)
		if a.Kind != e.kind {
			t.Fatalf("an alert of kind %s, want %s:\n%s", a.Kind, e.kind, a.Text())
		}
		a.ID = "example/" + string(a.Kind)
		var normal alert.Alert
		if err := json.Unmarshal(settled(must(json.MarshalIndent(a, "", "  "))), &normal); err != nil {
			t.Fatal(err)
		}
		recorded = append(recorded, normal)
	}
	checkExamples(t, recorded)
	var document strings.Builder
	document.WriteString("# Examples of alerts\n\n<!-- Recorded from played events: UPDATE_DOCS=1 go test ./handlers -run ExamplesAreRecorded -->\n\n" +
		"One of each kind, as mail has it. `cmkeeper alerts test` sends them to your topics. " +
		"The events were played against an AWS in the test's process; ids were replaced. " +
		"The alert of kind `policy` is a digest of several.\n")
	for _, a := range recorded {
		fmt.Fprintf(&document, "\n## %s\n\n```text\n%s```\n", a.Kind, a.Text())
	}
	for path, want := range map[string]string{
		filepath.Join("..", "docs", "alert-examples.md"):        document.String(),
		filepath.Join("..", "internal", "cli", "examples.json"): string(must(json.MarshalIndent(recorded, "", "  "))) + "\n",
	} {
		if os.Getenv("UPDATE_DOCS") != "" {
			if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s is not what was played; UPDATE_DOCS=1 go test ./handlers -run ExamplesAreRecorded writes it:\n%s", path, diff)
		}
	}
}

// checkExamples wants one alert of each kind that the schema knows, valid against it, that
// a chat shows with its title and next steps.
func checkExamples(t *testing.T, recorded []alert.Alert) {
	t.Helper()
	path := filepath.Join("..", "docs", "alert.v1.schema.json")
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	schema := must(compiler.Compile(path))
	var kinds struct {
		Defs struct {
			Kind struct{ Enum []alert.Kind } `json:"kind"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(must(os.ReadFile(path)), &kinds); err != nil {
		t.Fatal(err)
	}
	missing := map[alert.Kind]bool{}
	for _, kind := range kinds.Defs.Kind.Enum {
		missing[kind] = true
	}
	for _, row := range handlers.TableRows() {
		if row.Alert != "" && !missing[row.Alert] {
			t.Errorf("%s: the schema does not know alerts of kind %s", row.Key, row.Alert)
		}
	}
	for _, a := range recorded {
		delete(missing, a.Kind)
		document := must(jsonschema.UnmarshalJSON(bytes.NewReader(must(a.JSON()))))
		if err := schema.Validate(document); err != nil {
			t.Errorf("%s: %v", a.Kind, err)
		}
		var chat struct {
			Content struct {
				Title     string   `json:"title"`
				NextSteps []string `json:"nextSteps"`
			} `json:"content"`
		}
		if err := json.Unmarshal(must(a.Chat()), &chat); err != nil || chat.Content.Title == "" || len(chat.Content.NextSteps) == 0 {
			t.Errorf("%s in a chat: %+v, %v", a.Kind, chat, err)
		}
	}
	if len(missing) > 0 {
		t.Errorf("no example of %v", slices.Sorted(maps.Keys(missing)))
	}
}
