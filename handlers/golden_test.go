package handlers_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/handlers"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGoldenState holds what is stored and what is alerted, byte for byte: workers of
// two builds run side by side during an update, and read each other's documents. A
// difference needs a new version of the document's schema, or is a mistake.
// go test ./handlers -run GoldenState -update writes the files.
func TestGoldenState(t *testing.T) {
	written := map[string]bool{}
	golden := func(name string, record func(*testing.T) string) {
		path := filepath.Join("testdata", "golden", strings.NewReplacer("/", "_", " ", "_", ",", "").Replace(name)+".txt")
		written[path] = true
		t.Run(name, func(t *testing.T) { compare(t, path, record(t)) })
	}
	for _, row := range handlers.TableRows() {
		p := plays[row.Key]
		if row.Unusable {
			p = failedUse(row.Name)
		}
		golden(row.Key, func(t *testing.T) string {
			var b strings.Builder
			for _, mode := range []reaction.Mode{reaction.Observe, reaction.Enforce} {
				fmt.Fprintf(&b, "=== %s\n%s", mode, recorded(t, playConfig(mode, p), func(w *world) { w.play(row, p) }))
			}
			return b.String()
		})
	}
	for name, s := range scenes {
		golden(name, func(t *testing.T) string {
			c := s.config(t)
			return recorded(t, c, func(w *world) { s.do(w, c) })
		})
	}
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, path := range files {
		if !written[path] {
			t.Errorf("%s is of no play and no scene", path)
		}
	}
}

// compare compares a text with a golden file, or writes that.
func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// recorded plays a scene in a world of its own and returns what it leaves behind.
func recorded(t *testing.T, c reaction.Config, do func(*world)) (text string) {
	t.Helper()
	inWorld(t, c, func(w *world) {
		w.untraced = true
		w.router = w.newRouter(c)
		do(w)
		text = w.snapshot()
	})
	return text
}

// snapshot is what a world's workers left behind: the documents in the state bucket,
// the alerts, and the keys. What is random has the names of names.
func (w *world) snapshot() string {
	w.t.Helper()
	w.events() // those that are still to come have names, too
	var b strings.Builder
	docs := w.documents()
	names := w.names()
	slices.SortFunc(docs, func(a, b document) int { return cmp.Compare(names.of(a.name), names.of(b.name)) })
	for _, d := range docs {
		if d.name == accountDocument && string(d.body) == metDocument {
			continue // as every world begins
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, d.body, "", "  "); err != nil {
			w.t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, indented.Bytes()); err != nil || !bytes.Equal(compact.Bytes(), d.body) {
			w.t.Errorf("%s is not stored as compact JSON (%v): %s", d.name, err, d.body)
		}
		fmt.Fprintf(&b, "--- %s\n%s\n", d.name, &indented)
	}
	b.WriteString("--- alerts\n")
	var lines []string
	for _, a := range w.told.alerts {
		lines = append(lines, fmt.Sprintf("%s | %s | %s | action %s, mode %s | findings %s\n", names.of(a.ID), a.Kind, a.Severity, cmp.Or(a.Action.Status, alert.StatusNone), cmp.Or(a.Action.Mode, "-"), cmp.Or(findingIDs(a), "-")))
	}
	slices.Sort(lines)
	b.WriteString(strings.Join(lines, ""))
	b.WriteString("--- keys\n")
	for _, arn := range names.keys {
		b.WriteString(w.keyLine(arn))
	}
	for _, m := range w.moves.moves {
		fmt.Fprintf(&b, "move of %s from %v to %s at %s in %v\n", m.AliasARN, m.From, m.To, m.At.Format(time.RFC3339Nano), m.Scope)
	}
	return names.of(b.String())
}

// keyLine says how a key is.
func (w *world) keyLine(arn string) string {
	out, err := w.kms.DescribeKey(w.ctx, &kms.DescribeKeyInput{KeyId: &arn})
	if err != nil {
		return arn + " is gone\n"
	}
	policy := sha256.Sum256([]byte(w.livePolicy(arn)))
	status, err := w.kms.GetKeyRotationStatus(w.ctx, &kms.GetKeyRotationStatusInput{KeyId: &arn})
	rotation := "cannot rotate"
	if err == nil {
		rotation = fmt.Sprintf("rotation %v every %d days", status.KeyRotationEnabled, aws.ToInt32(status.RotationPeriodInDays))
	}
	return fmt.Sprintf("%s is %s, %s, policy %x\n", arn, out.KeyMetadata.KeyState, rotation, policy[:8])
}

type document struct {
	name string
	body []byte
}

// documents are those of the state bucket but those of package alert.
func (w *world) documents() (all []document) {
	w.t.Helper()
	pages := s3.NewListObjectsV2Paginator(w.s3, &s3.ListObjectsV2Input{Bucket: aws.String(stateBucket)})
	for pages.HasMorePages() {
		for _, o := range must(pages.NextPage(w.ctx)).Contents {
			if !strings.HasPrefix(*o.Key, "cmkeeper/alerts/") && !strings.HasPrefix(*o.Key, "cmkeeper/sweeps/facts/") && !strings.HasPrefix(*o.Key, "cmkeeper/sweeps/records/") {
				out := must(w.s3.GetObject(w.ctx, &s3.GetObjectInput{Bucket: aws.String(stateBucket), Key: o.Key}))
				all = append(all, document{*o.Key, must(io.ReadAll(out.Body))})
			}
		}
	}
	return all
}

// names are stable names of what is random: keys, events and requests go by the order
// in which they came about, everything else by the order in which it is met.
type names struct {
	keys  []string // ARNs
	pairs []string // what is random, its name, …
	met   map[string]string
}

// names returns the names of what has happened so far.
func (w *world) names() *names {
	n := &names{met: map[string]string{}}
	taken, number := map[string]bool{}, map[string]int{}
	name := func(random, what string) {
		if random == "" || taken[random] {
			return
		}
		taken[random] = true
		number[what]++
		n.pairs = append(n.pairs, random, fmt.Sprintf("<%s-%d>", what, number[what]))
	}
	for _, body := range w.seen {
		e, err := events.Parse([]byte(body))
		if err != nil {
			continue
		}
		_, id, _ := strings.Cut(e.KeyARN, ":key/")
		if e.Name == "CreateKey" && e.Kind == events.APICall && !e.Failed() && !taken[id] {
			n.keys = append(n.keys, e.KeyARN)
			name(id, "key")
			name(fmt.Sprintf("%x", sha256.Sum256([]byte(e.KeyARN))), "hash-of-key")
		}
		what := strings.ReplaceAll(cmp.Or(e.Name, string(e.Kind)), " ", "-")
		if i := slices.Index(n.keys, e.KeyARN); i >= 0 {
			what += fmt.Sprintf("-of-key-%d", i+1)
		}
		name(e.ID, "event-"+what)
		name(e.RequestID, "request-"+what)
	}
	return n
}

var (
	writeToken = regexp.MustCompile(`("write": ?)"[A-Z2-7]+"`)
	userAgent  = regexp.MustCompile(`("user_agent": ?)"[^"]*"`)
	grantID    = regexp.MustCompile(`"grant/[0-9a-f]{64}"`)
	storeID    = regexp.MustCompile(`cks-[0-9a-f]+`)
	material   = regexp.MustCompile(`(expired/[^/]+/)[0-9a-f]{64}`)
)

// of names what is random in a text, and what depends on the machine. Hashes stay: but
// for those of key ARNs, which have names, they are of what is not random.
func (n *names) of(text string) string {
	text = writeToken.ReplaceAllString(text, `$1"<token>"`)
	text = userAgent.ReplaceAllString(text, `$1"<agent>"`)
	text = material.ReplaceAllString(text, `$1<material>`)
	text = storeID.ReplaceAllString(grantID.ReplaceAllString(text, `"grant/<grant>"`), "cks-<store>")
	text = strings.NewReplacer(n.pairs...).Replace(text)
	return uuid.ReplaceAllStringFunc(text, func(random string) string {
		if n.met[random] == "" {
			n.met[random] = fmt.Sprintf("<random-%d>", len(n.met)+1)
		}
		return n.met[random]
	})
}

// scene is a longer story than a play.
type scene struct {
	config func(*testing.T) reaction.Config
	do     func(*world, reaction.Config)
}

// configured is a configuration made of another one.
func configured(c func() reaction.Config, changes ...func(*reaction.Config)) func(*testing.T) reaction.Config {
	return func(*testing.T) reaction.Config {
		made := c()
		for _, change := range changes {
			change(&made)
		}
		return made
	}
}

func observed(c *reaction.Config) {
	c.Rotation, c.Deletion, c.Reencrypt, c.Policy = reaction.Observe, reaction.Observe, reaction.Observe, reaction.Observe
}

func flapLimit(n int) func(*reaction.Config) { return func(c *reaction.Config) { c.FlapLimit = n } }

// closing puts policies back, and contains.
func closing(t *testing.T) reaction.Config {
	t.Helper()
	c := containing(t)
	c.Policy = reaction.Enforce
	return c
}

func exempt(text string) func(*testing.T) reaction.Config {
	return func(t *testing.T) reaction.Config {
		t.Helper()
		c := exempting(t, text)
		c.Policy = reaction.Enforce
		return c
	}
}

const worse = `{"Version":"2012-10-17","Statement":[{"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},` +
	`{"Sid":"oops","Effect":"Allow","Principal":"*","Action":["kms:CreateGrant","kms:ScheduleKeyDeletion"],"Resource":"*"}]}`

// scenes are the stories whose traces are held, by their names.
var scenes = map[string]scene{
	"policy put back, accepted, put back": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		for _, user := range []string{"mallory", "bob", "mallory"} { // the third time is one too many
			w.putPolicyAs(user, key, takeover)
			w.react()
			time.Sleep(time.Minute)
		}
		w.sweep()
		w.accept(key, takeover)
		w.sweep()
		w.putPolicyAs("carol", key, worse)
		w.react()
		w.sweep()
		time.Sleep(time.Hour)
		w.putPolicyAs("alice", key, withReader)
		w.react()
		w.sweep()
	}},
	"policy observed, then enforced": {configured(enforcePolicies, observed), func(w *world, c reaction.Config) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		c.Policy = reaction.Enforce
		w.router = w.newRouter(c)
		w.sweep()
		w.putPolicy(key, worse)
		w.react()
		w.sweep()
	}},
	"policy put back by a sweep, event later": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		time.Sleep(time.Hour)
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		w.sweep()
		w.handled(body)
		w.react()
		w.sweep()
	}},
	"policy put back that is refused": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:PutKeyPolicy" })
		w.failing(body)
		w.aws.SetIdentityPolicy(keeperKey, nil)
		w.handled(body)
		w.react()
	}},
	"policy put back too often": {configured(enforcePolicies, flapLimit(2)), func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		for _, user := range []string{"ann", "bob", "carol", "dan"} {
			w.putPolicyAs(user, key, takeover)
			w.react()
		}
		w.sweep()
	}},
	"harmless policies": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		for i := range 10 { // more than are kept
			time.Sleep(time.Minute)
			w.putPolicy(key, strings.ReplaceAll(withReader, "role/reader", fmt.Sprintf("role/reader-%d", i)))
			w.react()
		}
		w.putPolicy(key, strings.ReplaceAll(withReader, "role/reader", "role/reader-9"))
		w.react()
		w.sweep()
	}},
	"policy of a new key": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.newKey(kms.CreateKeyInput{Policy: aws.String(takeover)})
		w.react()
		w.putPolicy(key, worse)
		w.react()
		w.sweep()
	}},
	"containment": {containing, func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, public)
		w.react()
		w.sweep()
		time.Sleep(2 * time.Minute)
		w.enable(key) // by who opened it
		w.react()
		time.Sleep(2 * time.Minute)
		must(w.as("responder").EnableKey(w.ctx, &kms.EnableKeyInput{KeyId: &key}))
		w.react()
		w.sweep()
		w.putPolicy(key, rootOnly)
		w.react()
		w.grantTo(key, "arn:aws:iam::"+stranger+":role/reader")
		w.react()
		w.sweep()
	}},
	"containment refused": {containing, func(w *world, c reaction.Config) {
		key, other := w.knownKey("alias/orders"), w.knownKey("alias/bills")
		must(w.as("key-admins").PutKeyPolicy(w.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(public)}))
		w.react()
		must(w.kms.Encrypt(w.ctx, &kms.EncryptInput{KeyId: &other, Plaintext: []byte("secret")}))
		w.putPolicy(other, public)
		w.react()
		w.sweep()
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:DisableKey" })
		c.ContainInUse = true
		w.router = w.newRouter(c)
		w.grantTo(other, "arn:aws:iam::"+stranger+":role/reader")
		w.failing(w.event("CreateGrant"))
	}},
	"containment observed": {func(t *testing.T) reaction.Config { c := containing(t); c.Contain = reaction.Observe; return c }, func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		w.putPolicy(key, partner)
		w.react()
		w.sweep()
	}},
	"put back and containment": {closing, func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		w.react()
		time.Sleep(time.Minute)
		w.putPolicy(key, takeover) // the same one again: it is not put back, so it is contained
		w.react()
		w.sweep()
	}},
	"containment, then put back": {closing, func(w *world, c reaction.Config) {
		key := w.guardedKey()
		w.putPolicy(key, takeover)
		body := w.event("PutKeyPolicy")
		w.router = w.newRouter(containing(w.t))
		w.handled(body)
		w.router = w.newRouter(c)
		w.handled(body)
		w.react()
		w.sweep()
	}},
	"accepted policy is not contained": {closing, func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		w.accept(key, partner)
		w.putPolicy(key, partner)
		w.react()
		w.grantTo(key, "arn:aws:iam::777788889999:role/reader")
		w.react()
		w.sweep()
	}},
	"rotation until the circuit opens": {configured(enforceAll, flapLimit(3)), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		for range 4 {
			w.disableRotation(key)
			w.react()
			time.Sleep(time.Minute)
		}
		w.sweep()
		w.disableRotation(key)
		w.react()
		time.Sleep(time.Hour)
		w.sweep()
		w.disableRotation(key)
		w.react()
	}},
	"rotation period": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		for _, days := range []int32{2560, 365, 90, 400} {
			w.enableRotation(key, days)
			w.react()
			time.Sleep(time.Minute)
		}
		w.sweep()
	}},
	"rotation found by a sweep": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		body := w.event("DisableKeyRotation")
		w.sweep()
		w.handled(body)
		w.react()
		w.sweep()
	}},
	"rotation off, then required": {configured(enforceAll, observed), func(w *world, c reaction.Config) {
		key := w.rotatingKey(180)
		w.newKey(kms.CreateKeyInput{})
		w.disableRotation(key)
		w.react()
		w.sweep()
		c.Rotation, c.Posture.RotationRequired = reaction.Enforce, true
		w.router = w.newRouter(c)
		w.sweep()
		w.react()
		w.sweep()
	}},
	"rotation of a key that is disabled": {configured(enforceAll, func(c *reaction.Config) { c.Deletion = reaction.Off }), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		w.disableRotation(key)
		w.disable(key)
		w.react()
		w.enable(key)
		w.react()
		w.sweep()
	}},
	"rotation that may not be repaired": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:EnableKeyRotation" })
		w.disableRotation(key)
		body := w.event("DisableKeyRotation")
		w.failing(body)
		w.aws.SetIdentityPolicy(keeperKey, nil)
		w.handled(body)
		w.react()
	}},
	"rotations on demand": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		for range 5 {
			must(w.kms.RotateKeyOnDemand(w.ctx, &kms.RotateKeyOnDemandInput{KeyId: &key}))
			time.Sleep(3 * 24 * time.Hour)
			w.react()
		}
		w.sweep()
	}},
	"deletion cancelled": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		w.react()
		w.sweep()
		time.Sleep(time.Minute)
		w.disable(key)
		w.react()
		w.sweep()
	}},
	"deletion of a disabled key": {configured(enforceAll, observed), func(w *world, c reaction.Config) {
		key := w.knownKey("alias/orders")
		w.disable(key)
		w.react()
		c.Deletion = reaction.Enforce
		w.router = w.newRouter(c)
		w.scheduleDeletion(key)
		w.react()
		w.sweep()
	}},
	"deletion found by a sweep": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletion(key)
		body := w.event("ScheduleKeyDeletion")
		w.sweep()
		w.handled(body)
		w.react()
		w.sweep()
	}},
	"deletion until the circuit opens": {configured(enforceAll, flapLimit(2)), func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		for range 3 {
			w.scheduleDeletion(key)
			w.react()
			time.Sleep(time.Minute)
		}
		w.sweep()
		time.Sleep(time.Hour)
		w.sweep()
		w.react()
	}},
	"deletion that may not be cancelled": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		w.aws.SetIdentityPolicy(keeperKey, func(action, _ string) bool { return action != "kms:CancelKeyDeletion" })
		w.scheduleDeletion(key)
		w.failing(w.event("ScheduleKeyDeletion"))
	}},
	"deletion approved by its tag": {configured(func() reaction.Config { return countdown(reaction.Enforce) }), func(w *world, c reaction.Config) {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "cmkeeper:deletion-approved", time.Now().UTC().Format(time.DateOnly))
		w.sweepFor(27*time.Hour, c)
		w.react()
		w.scheduleDeletionIn(key, 10)
		w.react()
		w.sweepFor(11*day, c)
		w.react()
	}},
	"deletion not approved by its tag": {configured(func() reaction.Config { return countdown(reaction.Enforce) }), func(w *world, c reaction.Config) {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "cmkeeper:deletion-approved", "1999-11-01")
		w.react()
		w.sweepFor(27*time.Hour, c)
		w.scheduleDeletionIn(key, 10)
		w.react()
	}},
	"deletion approved by retire": {configured(func() reaction.Config { return countdown(reaction.Enforce) }), func(w *world, c reaction.Config) {
		key := w.knownKey("alias/orders")
		w.approve(key, 8)
		w.react()
		w.sweepFor(9*day, c)
		w.react()
	}},
	"reminders of a deletion": {configured(func() reaction.Config { return countdown(reaction.Observe) }), func(w *world, c reaction.Config) {
		key := w.knownKey("alias/orders")
		w.scheduleDeletionIn(key, 10)
		w.react()
		w.sweepFor(11*day, c)
		w.react()
	}},
	"reminders of an expiry": {configured(func() reaction.Config { return countdown(reaction.Observe) }), func(w *world, c reaction.Config) {
		w.importedKey(aws.Time(time.Now().Add(4 * day)))
		w.react()
		w.sweepFor(5*day, c)
		w.react()
	}},
	"deletion of a primary": {configured(func() reaction.Config { return countdown(reaction.Enforce) }), func(w *world, _ reaction.Config) {
		key := w.newKey(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
		must(w.kms.ReplicateKey(w.ctx, &kms.ReplicateKeyInput{KeyId: &key, ReplicaRegion: aws.String("us-west-2")}))
		w.react()
		w.sweep()
		time.Sleep(2 * time.Second)
		w.scheduleDeletion(key)
		w.react()
		w.sweep()
	}},
	"exempt by tag": {exempt("rotation, deletion, policy of tag env=sandbox until 2000-01-20: nobody depends on it"), func(w *world, _ reaction.Config) {
		key := w.newKey(kms.CreateKeyInput{Tags: []types.Tag{{TagKey: aws.String("env"), TagValue: aws.String("sandbox")}}})
		w.enableRotation(key, 180)
		w.react()
		w.sweep()
		time.Sleep(25 * time.Hour)
		w.trespass(key)
	}},
	"exempt by alias": {exempt("rotation, deletion, policy of alias/legacy-* until 2000-01-20: the vendor"), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		w.createAlias("alias/legacy-erp", key)
		w.react()
		w.sweep()
		time.Sleep(25 * time.Hour)
		w.trespass(key)
	}},
	"exempt by actor": {exempt("rotation, deletion, policy by user/mallory until 2000-01-20: a drill"), func(w *world, _ reaction.Config) {
		key := w.rotatingKey(180)
		w.sweep()
		w.trespass(key)
	}},
	"alias to and fro": {configured(enforceAll), func(w *world, _ reaction.Config) {
		a := w.aliasWithData()
		b, c := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.react()
		for _, to := range []string{b, c, a, b, a} {
			w.updateAlias(listed, to)
			w.react()
		}
		w.sweep()
	}},
	"alias there and back before anybody looks": {configured(enforceAll), func(w *world, _ reaction.Config) {
		a := w.aliasWithData()
		b := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.updateAlias(listed, b)
		w.updateAlias(listed, a)
		w.react()
		w.sweep()
	}},
	"alias out of order": {configured(enforceAll), func(w *world, _ reaction.Config) {
		w.aliasWithData()
		b, c := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.react()
		w.updateAlias(listed, b)
		toB := w.event("UpdateAlias")
		w.updateAlias(listed, c)
		toC := w.event("UpdateAlias")
		for _, body := range []string{toC, toB, toC, toB} {
			w.handled(body)
		}
		w.sweep()
	}},
	"alias deleted and made again": {configured(enforceAll), func(w *world, _ reaction.Config) {
		w.aliasWithData()
		b := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.deleteAlias(listed)
		w.react()
		time.Sleep(2 * time.Second)
		w.createAlias(listed, b)
		w.react()
		w.sweep()
	}},
	"alias moved, found by sweeps": {configured(enforceAll), func(w *world, _ reaction.Config) {
		w.aliasWithData()
		b := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.updateAlias(listed, b)
		w.events()
		for range 3 {
			w.sweep()
			time.Sleep(6 * time.Minute)
		}
	}},
	"alias moved, and the move fails": {configured(enforceAll), func(w *world, _ reaction.Config) {
		w.aliasWithData()
		b := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.updateAlias(listed, b)
		w.moves.broken = true
		body := w.event("UpdateAlias")
		w.failing(body)
		w.moves.broken = false
		w.sweep()
		w.handled(body)
	}},
	"alias moved, observed": {configured(enforceAll, observed), func(w *world, _ reaction.Config) {
		w.aliasWithData()
		b := w.newKey(kms.CreateKeyInput{})
		w.react()
		w.updateAlias(listed, b)
		w.react()
		w.sweep()
	}},
	"aliases seen at the start": {configured(enforceAll), func(w *world, _ reaction.Config) {
		a, b := w.newKey(kms.CreateKeyInput{}), w.newKey(kms.CreateKeyInput{})
		w.createAlias(listed, a)
		w.events()
		if err := w.router.Snapshot(w.ctx); err != nil {
			w.t.Fatal(err)
		}
		w.updateAlias(listed, b)
		if err := w.router.StartupSweep(w.ctx); err != nil {
			w.t.Fatal(err)
		}
		w.react()
	}},
	"a key shuts the role out": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		w.putPolicy(key, shutOut)
		w.react()
		w.sweepQuietly()
		time.Sleep(time.Hour)
		w.sweepQuietly()
		w.putPolicy(key, strings.ReplaceAll(rootOnly, `"root"`, `"mallory"`))
		w.react()
		w.sweep()
	}},
	"a bucket leaves its key": {configured(func() reaction.Config { return playConfig(reaction.Enforce, play{}) }), func(w *world, _ reaction.Config) {
		w.sealedBucket()
		w.tag("orders-data", "alias/orders")
		w.react()
		w.setDefault(strangersKey)
		w.react()
		w.setDefault("alias/orders")
		w.react()
		must(w.s3.DeleteBucketPolicy(w.ctx, &s3.DeleteBucketPolicyInput{Bucket: aws.String("orders-data")}))
		w.events() // lost
		w.sweep()
		must(w.s3.DeleteBucketEncryption(w.ctx, &s3.DeleteBucketEncryptionInput{Bucket: aws.String("orders-data")}))
		must(w.s3.DeleteBucketTagging(w.ctx, &s3.DeleteBucketTaggingInput{Bucket: aws.String("orders-data")}))
		w.events()
		w.sweep()
		w.sweep()
	}},
	"tags": {configured(enforceAll, func(c *reaction.Config) { c.WatchedTags = []string{"class"} }), func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		w.tagKey(key, "class", "secret")
		w.tagKey(key, "team", "orders")
		w.react()
		w.sweep()
		time.Sleep(time.Hour)
		w.tagKey(key, "class", "public")
		w.react()
		w.sweep()
		must(w.kms.UntagResource(w.ctx, &kms.UntagResourceInput{KeyId: &key, TagKeys: []string{"class"}}))
		w.react()
		w.sweep()
	}},
	"grants": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.knownKey("alias/orders")
		w.grantTo(key, "arn:aws:iam::"+account+":role/reader")
		w.grantTo(key, "arn:aws:iam::"+stranger+":role/reader")
		w.react()
		w.sweep()
	}},
	"our role in other hands": {configured(enforcePolicies), func(w *world, _ reaction.Config) {
		key := w.guardedKey()
		time.Sleep(10 * time.Minute)
		w.putPolicyAs(keeperKey, key, withReader)
		w.react()
		w.sweep()
	}},
	"imported material is lost": {configured(enforceAll), func(w *world, _ reaction.Config) {
		key := w.importedKey(nil)
		w.react()
		must(w.kms.DeleteImportedKeyMaterial(w.ctx, &kms.DeleteImportedKeyMaterialInput{KeyId: &key}))
		w.react()
		w.importMaterial(key, make([]byte, 32), nil)
		w.react()
		w.sweep()
	}},
}

// trespass does to a key what is undone, until it is no longer exempt.
func (w *world) trespass(key string) {
	w.t.Helper()
	w.disableRotation(key)
	w.react()
	w.putPolicy(key, takeover)
	w.react()
	w.scheduleDeletionIn(key, 30)
	w.react()
	w.sweep()
	time.Sleep(20 * day)
	w.sweep()
	w.react()
}

// handled handles a message and fails the test on an error.
func (w *world) handled(body string) {
	w.t.Helper()
	if err := w.handle(body); err != nil {
		w.t.Fatal(err)
	}
}

// failing handles a message and fails the test where that succeeds.
func (w *world) failing(body string) {
	w.t.Helper()
	if err := w.handle(body); err == nil {
		w.t.Fatal("it was handled, which must fail here")
	}
}

// sweepQuietly sweeps where some key cannot be read.
func (w *world) sweepQuietly() {
	w.t.Helper()
	_ = w.router.Sweep(w.ctx)
}
