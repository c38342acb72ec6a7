package handlers_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

// labelled is a line of testdata/events.jsonl: a CloudTrail record, or an event of KMS's
// own with its envelope, what is so when it comes, and what is to be told of it. The labels say what a responder
// would want, not what the code does.
type labelled struct {
	Name string `json:"name"`
	Why  string `json:"why"`
	// Given names the world that it comes into, see givens. In the record KEYID is
	// the id of that world's key, "NOW" the time, "LIVE" the key's policy, "PUBLIC"
	// one that is open to everybody, "STRANGER" a key of another account.
	Given string          `json:"given"`
	Event json.RawMessage `json:"event"`
	Want  []verdict       `json:"want"`
}

type verdict struct {
	Kind     string `json:"kind"`
	Severity string `json:"severity"`
}

const strangersKey = "arn:aws:kms:" + region + ":" + stranger + ":key/0a1b2c3d-1111-4222-8333-9e8d7c6b5a40"

// givens make the worlds, and return the ARN of the key that events are about.
var givens = map[string]func(*world) string{
	"none": func(*world) string {
		return "arn:aws:kms:" + region + ":" + account + ":key/5f6e7d8c-4444-4555-9666-1a2b3c4d5e6f"
	},
	"key":      func(w *world) string { return w.knownKey("alias/orders") },
	"rotating": func(w *world) string { return w.rotatingKey(180) },
	"rotation off": func(w *world) string {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		return key
	},
	"long period": func(w *world) string {
		key := w.rotatingKey(180)
		w.enableRotation(key, 730)
		return key
	},
	"longest period": func(w *world) string {
		key := w.rotatingKey(180)
		w.enableRotation(key, 2560)
		return key
	},
	"multi-Region": func(w *world) string {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		w.enableRotation(key, 180)
		w.react()
		return key
	},
	"public": func(w *world) string {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, takeover)
		return key
	},
	"partner": func(w *world) string {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, partner)
		return key
	},
	"pending": func(w *world) string {
		key := w.knownKey("alias/orders")
		must(w.kms.ScheduleKeyDeletion(w.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key}))
		return key
	},
	"disabled": func(w *world) string {
		key := w.knownKey("alias/orders")
		w.disable(key)
		return key
	},
	"deleted":             deleteKey,
	"imported":            func(w *world) string { return w.importedKey(nil) },
	"imported until soon": func(w *world) string { return w.importedKey(aws.Time(time.Now().Add(20 * 24 * time.Hour))) },
	"imported until late": func(w *world) string { return w.importedKey(aws.Time(time.Now().Add(300 * 24 * time.Hour))) },
	"material gone": func(w *world) string {
		key := w.importedKey(nil)
		must(w.kms.DeleteImportedKeyMaterial(w.ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &key}))
		return key
	},
	"alias": func(w *world) string { return w.aliasWithData() },
	"alias moved": func(w *world) string {
		w.aliasWithData()
		key := w.newKey(kms.CreateKeyInput{})
		w.updateAlias(listed, key)
		return key
	},
	"alias gone": func(w *world) string {
		key := w.aliasWithData()
		w.deleteAlias(listed)
		return key
	},
	"bucket": func(w *world) string {
		w.sealedBucket()
		return w.bucketKey()
	},
	"bucket under a stranger's key": func(w *world) string {
		w.sealedBucket()
		w.setDefault(strangersKey)
		return strangersKey
	},
	"bucket under another key": func(w *world) string {
		w.sealedBucket()
		key := w.newKey(kms.CreateKeyInput{})
		w.setDefault(key)
		return key
	},
	"bucket without a key": func(w *world) string {
		w.sealedBucket()
		must(w.s3.DeleteBucketEncryption(w.ctx, &s3.DeleteBucketEncryptionInput{Bucket: aws.String("orders-data")}))
		return ""
	},
	"bucket without its deny": func(w *world) string {
		w.sealedBucket()
		must(w.s3.DeleteBucketPolicy(w.ctx, &s3.DeleteBucketPolicyInput{Bucket: aws.String("orders-data")}))
		return ""
	},
}

// bucketKey is the key of the sealed bucket.
func (w *world) bucketKey() string {
	keys := must(w.kms.ListKeys(w.ctx, &kms.ListKeysInput{})).Keys
	i := slices.IndexFunc(keys, func(k types.KeyListEntry) bool { return w.state(*k.KeyArn) == "Enabled" })
	return *keys[i].KeyArn
}

// TestLabelledEvents has every labelled event judged, and prints how well.
func TestLabelledEvents(t *testing.T) {
	corpus := readLabelled(t)
	if len(corpus) < 120 {
		t.Errorf("%d labelled events, want 120 or more", len(corpus))
	}
	var right, missed, invented int
	names, labels := map[string]bool{}, map[string]bool{}
	for _, l := range corpus {
		if names[l.Name] {
			t.Errorf("%q is there twice", l.Name)
		}
		names[l.Name] = true
		var record struct {
			EventName  string
			DetailType string `json:"detail-type"`
		}
		if err := json.Unmarshal(l.Event, &record); err != nil {
			t.Fatal(err)
		}
		labels[record.EventName+record.DetailType] = true
		got, want := l.judge(t), verdicts(l.Want)
		for _, v := range want {
			if i := slices.Index(got, v); i >= 0 {
				right++
				got = slices.Delete(got, i, i+1)
				continue
			}
			missed++
			t.Errorf("%s: not told: %s (%s)", l.Name, v, l.Why)
		}
		invented += len(got)
		for _, v := range got {
			t.Errorf("%s: told without need: %s (%s)", l.Name, v, l.Why)
		}
	}
	for _, row := range handlers.TableRows() {
		if row.Kind != events.Scheduled && !row.Unusable && !labels[row.Name] {
			t.Errorf("no labelled event is a %s", row.Name)
		}
	}
	t.Logf("%d labelled events, %d alerts: precision %.3f, recall %.3f", len(corpus), right+missed,
		float64(right)/float64(right+invented), float64(right)/float64(right+missed))
}

func readLabelled(t *testing.T) (all []labelled) {
	t.Helper()
	file, err := os.Open("testdata/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var l labelled
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("line %d: %v", len(all)+1, err)
		}
		all = append(all, l)
	}
	return all
}

func verdicts(want []verdict) (all []string) {
	for _, v := range want {
		all = append(all, v.Kind+" "+v.Severity)
	}
	return all
}

// judge returns what is told of the event. Before and after it come variants of
// it that must not change a thing: that the call failed, that it happened in
// another account, that it comes again, and that its record is garbled.
func (l labelled) judge(t *testing.T) (told []string) {
	t.Helper()
	given, ok := givens[l.Given]
	if !ok {
		t.Fatalf("%s: %q is no world", l.Name, l.Given)
	}
	c := playConfig(reaction.Enforce, play{})
	c.FailedUse, c.WatchedTags, c.Posture.TrustedAccounts = true, []string{"class"}, []string{"111122223333"}
	inWorld(t, c, func(w *world) {
		key := given(w)
		w.events() // this one is all that arrives
		w.told.take()
		live := ""
		if strings.Contains(string(l.Event), `"LIVE"`) {
			live = w.livePolicy(key)
		}
		id := key[strings.LastIndexByte(key, '/')+1:]
		record := strings.NewReplacer(
			"KEYID", id, `"NOW"`, quote(time.Now().UTC().Format(time.RFC3339)), `"LIVE"`, quote(live), `"PUBLIC"`, quote(takeover), `"STRANGER"`, quote(strangersKey),
		).Replace(string(l.Event))
		before := w.repairs()
		variants := []string{strings.ReplaceAll(record, account, stranger)}
		if !strings.Contains(record, `"detail-type"`) {
			variants = append(variants, with(record, "errorCode", `"InternalFailure"`))
		}
		for _, variant := range variants {
			if err := w.handle(variant); err != nil {
				t.Errorf("%s: %v of %s", l.Name, err, variant)
			}
			if got := w.told.take(); len(got) > 0 || w.repairs() != before {
				t.Errorf("%s: %d repairs and %d alerts because of a variant that is none of ours:\n%s\n%s", l.Name, w.repairs()-before, len(got), variant, texts(got))
			}
		}
		if err := w.handle(record); err != nil {
			t.Errorf("%s: %v", l.Name, err)
		}
		for _, a := range w.told.take() {
			told = append(told, fmt.Sprintf("%s %s", a.Kind, a.Severity))
		}
		if err := w.handle(record); err != nil {
			t.Errorf("%s, again: %v", l.Name, err)
		}
		if got := w.told.take(); len(got) > 0 {
			t.Errorf("%s: told again:\n%s", l.Name, texts(got))
		}
		for _, garbled := range []string{
			with(record, "requestParameters", `{"keyId":{},"name":7,"attributes":"x","eventSelectors":[null],"tags":{"a":1},"bucketName":[]}`),
			with(with(record, "requestParameters", `null`), "responseElements", `[1,{"a":[]}]`),
			with(with(with(record, "resources", `"x"`), "userIdentity", `null`), "additionalEventData", `7`),
		} {
			if err := w.handle(garbled); err != nil {
				t.Errorf("%s, garbled: %v of %s", l.Name, err, garbled)
			}
		}
	})
	return told
}

// with sets a member of a record, which is the last one that counts.
func with(record, member, value string) string {
	return strings.TrimSuffix(record, "}") + `,"` + member + `":` + value + `}`
}

func quote(s string) string { return string(must(json.Marshal(s))) }

// sharedCorpus names the directory of sample events that package events reads,
// too: one a file, {"event": …}.
const sharedCorpus = "CMKEEPER_EVENT_CORPUS"

// TestSampleEventsAreRouted takes every sample event: those that change something
// in KMS have a row in the table, or are in the list of what is let pass.
func TestSampleEventsAreRouted(t *testing.T) {
	dir := os.Getenv(sharedCorpus)
	if dir == "" {
		t.Skipf("%s is not set: the corpus is kept outside of the repository", sharedCorpus)
	}
	passes := []string{
		"SynchronizeMultiRegionKey",    // AWS's own doing
		"GenerateRandom",               // no key, and no change: old records do not say that it only reads
		"CMK Deletion", "CMK Rotation", // names of 2016
	}
	files := must(filepath.Glob(filepath.Join(dir, "*.json")))
	routed := map[string]int{}
	inWorld(t, playConfig(reaction.Enforce, play{policy: true}), func(w *world) {
		for _, file := range files {
			var sample struct {
				Event json.RawMessage `json:"event"`
			}
			if err := json.Unmarshal(must(os.ReadFile(file)), &sample); err != nil {
				t.Fatal(err)
			}
			e := must(events.Parse(sample.Event))
			row := slices.IndexFunc(handlers.TableRows(), func(r handlers.TableRow) bool { return r.Name == e.Name && !r.Unusable })
			switch changes := !e.ReadOnly && !slices.Contains(events.Uses(), e.Name); {
			case row >= 0:
				routed[handlers.TableRows()[row].Reaction]++
			case changes && !slices.Contains(passes, e.Name):
				t.Errorf("%s: %s changes something, and nothing reacts to it", filepath.Base(file), e.Name)
			}
			// The keys are another account's: nothing may be done or told of them.
			if err := w.handle(string(sample.Event)); err != nil {
				t.Errorf("%s: %v", filepath.Base(file), err)
			}
		}
		w.none()
	})
	t.Logf("%d sample events; reactions: %v", len(files), routed)
}
