package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

const (
	ledgerPeriod = 200
	ownerTag     = "finance"
)

// secondAct is the replacement of a key, and one that was undone.
type secondAct struct {
	// before, replaced and moved are the object versions before the first rotation, after
	// it, and after the second.
	before, replaced, moved map[version]facts
	// first and aborted are what the command says of the rotations in the end.
	first, aborted rotation
	jobs           []job
}

// rotation is the part of a cmkeeper.rotation.v1 document that the demo reads.
type rotation struct {
	Schema string `json:"schema"`
	ID     string `json:"id"`
	State  string `json:"state"`
	Step   string `json:"step"`
	NewKey string `json:"new_key"`
	Waits  string `json:"waits_until"`
	Why    string `json:"why"`
	Left   []struct {
		ID string `json:"id"`
	} `json:"left"`
}

// job is the part of a listed job that the demo reads.
type job struct {
	Bucket string `json:"bucket"`
	To     string `json:"to"`
	State  string `json:"state"`
}

// furnishLedger gives the key of the second act what its successor should have, too, and a
// grant, which is not copied.
func (st *stage) furnishLedger(ctx context.Context, keys *kms.Client) error {
	if _, err := keys.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: &st.ledgerKey, RotationPeriodInDays: aws.Int32(ledgerPeriod)}); err != nil {
		return err
	}
	if _, err := keys.TagResource(ctx, &kms.TagResourceInput{KeyId: &st.ledgerKey, Tags: []kmstypes.Tag{{TagKey: aws.String("owner"), TagValue: aws.String(ownerTag)}}}); err != nil {
		return err
	}
	_, err := keys.CreateGrant(ctx, &kms.CreateGrantInput{
		KeyId: &st.ledgerKey, GranteePrincipal: aws.String("arn:aws:iam::" + sandbox.Account + ":role/auditor"), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
	})
	return err
}

// command runs a command line of cmkeeper as the operator, and returns what it prints.
func (st *stage) command(ctx context.Context, o Options, progress io.Writer, args ...string) (string, error) {
	var out bytes.Buffer
	err := o.Command(ctx, st.box.WorkerEnvironment(""), st.box.Config(operator), &out, progress, args...)
	return out.String(), err
}

// replaceKey plays the second act.
func (st *stage) replaceKey(ctx context.Context, o Options, say func(string, ...any)) (*secondAct, error) {
	var act secondAct
	var err error
	if act.before, err = st.snapshot(ctx, st.ledgers); err != nil {
		return nil, err
	}
	command := func(ctx context.Context, progress io.Writer, args ...string) (string, error) {
		return st.command(ctx, o, progress, args...)
	}
	status := func(of string) (r rotation, err error) {
		out, err := command(ctx, io.Discard, "rotate", "status", of, "--json")
		if err != nil {
			return r, err
		}
		return r, json.Unmarshal([]byte(out), &r)
	}

	begin := []string{"rotate", ledgerAlias}
	for _, b := range st.ledgers { // the check at the end reads all buckets of the account
		begin = append(begin, "--bucket", b)
	}

	// The operator's machine goes down when the alias has moved, and another one goes on.
	interrupted, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	down := errors.New("the operator's machine went down")
	_, err = command(interrupted, cutter{"move-aliases: ", func() { interrupt(down) }}, begin...)
	if !errors.Is(context.Cause(interrupted), down) || err == nil {
		return nil, fmt.Errorf("the rotation was not interrupted: %w", err)
	}
	say("  %s    rotate               %s, interrupted when the alias had moved", operator, ledgerAlias)
	if _, err := command(ctx, io.Discard, "rotate", "resume", ledgerAlias); err != nil {
		return nil, err
	}
	if act.first, err = status(ledgerAlias); err != nil {
		return nil, err
	}
	say("  %s    rotate resume        to its end", operator)
	if act.replaced, err = st.snapshot(ctx, st.ledgers); err != nil {
		return nil, err
	}
	if _, err := command(ctx, io.Discard, append(begin, "--again", "--until", "move-data")...); err != nil {
		return nil, err
	}
	if act.moved, err = st.snapshot(ctx, st.ledgers); err != nil {
		return nil, err
	}
	say("  %s    rotate               %s again, until the data has moved", operator, ledgerAlias)
	if _, err := command(ctx, io.Discard, "rotate", "abort", ledgerAlias); err != nil {
		return nil, err
	}
	if act.aborted, err = status(ledgerAlias); err != nil {
		return nil, err
	}
	say("  %s    rotate abort         %s", operator, act.aborted.Why)

	if err := st.awaitIdle(ctx, o.Patience); err != nil { // the fleet may have answered the aliases' moves
		return nil, err
	}
	out, err := command(ctx, io.Discard, "reencrypt", "list", "--json")
	if err != nil {
		return nil, err
	}
	var list struct{ Jobs []job }
	err = json.Unmarshal([]byte(out), &list)
	act.jobs = slices.DeleteFunc(list.Jobs, func(j job) bool { return !slices.Contains(st.ledgers, j.Bucket) })
	return &act, err
}

// cutter calls cut when what is written begins with a text.
type cutter struct {
	at  string
	cut func()
}

func (c cutter) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), c.at) {
		c.cut()
	}
	return len(p), nil
}

// checkReplacement checks what the second act has come to.
func (v *verifier) checkReplacement(ctx context.Context) error {
	act := v.second
	left := &v.summary.Replacement.Left
	*left = []string{}
	for _, l := range act.first.Left {
		*left = append(*left, l.ID)
	}
	if first := act.first; first.Schema != "cmkeeper.rotation.v1" || first.State != "done" || first.Step != "" {
		v.problem("the first rotation of %s is %s, at step %q; want it done", ledgerAlias, first.State, first.Step)
	}
	if again := act.aborted; again.ID == act.first.ID || again.State != "aborting" || again.Step != "disable-new-key" || again.Waits == "" {
		v.problem("the second rotation of %s is %s, at step %q, until %q; want it to wait for a day without use of its key", ledgerAlias, again.State, again.Step, again.Waits)
	}
	v.summary.Abort.Waits = act.aborted.Why
	if err := v.checkReplacedKeys(ctx); err != nil {
		return err
	}
	if err := v.checkDefaults(ctx); err != nil {
		return err
	}
	after, err := v.stage.snapshot(ctx, v.stage.ledgers)
	if err != nil {
		return err
	}
	second, third := act.first.NewKey, act.aborted.NewKey
	v.summary.Replacement.Moved = v.compareMoved("after the rotation", act.replaced, second)
	v.summary.Abort.Moved = v.compareMoved("after the second rotation", act.moved, third)
	v.summary.Abort.Restored = v.compareMoved("after the abort", after, second)

	moves := map[job]int{}
	for _, j := range act.jobs {
		moves[j]++
	}
	want := map[job]int{}
	for _, b := range v.stage.ledgers {
		want[job{b, second, "complete"}] = 2 // there, and back from the third
		want[job{b, third, "complete"}] = 1
	}
	if !maps.Equal(moves, want) {
		v.problem("the jobs of the rotations of %s are %v; want %v", ledgerAlias, moves, want)
	}
	return nil
}

// compareMoved compares the object versions of the second act with what they were, and
// counts those under the key that they should be under.
func (v *verifier) compareMoved(when string, all map[version]facts, key string) (moved int) {
	for at, was := range v.second.before {
		is, there := all[at]
		want := was.key
		if was.key == v.stage.ledgerKey && at.key != lockedKey {
			want = key
		}
		switch problem := difference(at, was, is); {
		case !there:
			v.problem("%s: %s is gone", when, at)
		case problem != "":
			v.problem("%s: %s", when, problem)
		case is.latest != was.latest:
			v.problem("%s: that %s is the current version is %t", when, at, is.latest)
		case is.key != want:
			v.problem("%s: %s is under %s; want %s", when, at, is.key, want)
		case want == key:
			moved++
		}
	}
	if len(all) != len(v.second.before) || moved == 0 {
		v.problem("%s: there are %d object versions, of which %d have moved; there were %d", when, len(all), moved, len(v.second.before))
	}
	return moved
}

// checkReplacedKeys reads the three keys of the second act, and the alias.
func (v *verifier) checkReplacedKeys(ctx context.Context) error {
	client := kms.NewFromConfig(v.stage.box.Config(operator))
	tagged := map[string][]string{} // keys by the rotation that they are tagged with
	pages := kms.NewListKeysPaginator(client, &kms.ListKeysInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, key := range page.Keys {
			tags, err := client.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: key.KeyArn})
			if err != nil {
				return err
			}
			for _, t := range tags.Tags {
				if aws.ToString(t.TagKey) == "cmkeeper:rotation" {
					tagged[aws.ToString(t.TagValue)] = append(tagged[aws.ToString(t.TagValue)], aws.ToString(key.KeyArn))
				}
			}
		}
	}
	second, third := v.second.first, v.second.aborted
	v.summary.Replacement.NewKeys = len(tagged[second.ID])
	for _, r := range []rotation{second, third} {
		if got := tagged[r.ID]; !slices.Equal(got, []string{r.NewKey}) {
			v.problem("the keys with the tag of rotation %s are %v; want %s alone", r.ID, got, r.NewKey)
		}
	}
	for _, key := range []string{v.stage.ledgerKey, second.NewKey, third.NewKey} {
		out, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &key})
		if err != nil {
			return err
		}
		enabled := out.KeyMetadata.KeyState == kmstypes.KeyStateEnabled
		if key == v.stage.ledgerKey {
			v.summary.Replacement.OldEnabled = enabled
		}
		if !enabled {
			v.problem("the key %s of %s is %s; want Enabled", key, ledgerAlias, out.KeyMetadata.KeyState)
		}
		period, err := client.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &key})
		if err != nil {
			return err
		}
		tags, err := client.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &key})
		if err != nil {
			return err
		}
		policy, err := client.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &key, PolicyName: aws.String("default")})
		if err != nil {
			return err
		}
		owned := slices.ContainsFunc(tags.Tags, func(t kmstypes.Tag) bool {
			return aws.ToString(t.TagKey) == "owner" && aws.ToString(t.TagValue) == ownerTag
		})
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(aws.ToString(policy.Policy))); err != nil {
			return err
		}
		if aws.ToInt32(period.RotationPeriodInDays) != ledgerPeriod || !owned || compact.String() != v.stage.policy {
			v.problem("the key %s of %s is not like the first: it rotates every %d days, its owner's tag is there: %t, its policy is %s", key, ledgerAlias, aws.ToInt32(period.RotationPeriodInDays), owned, &compact)
		}
	}
	at, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(ledgerAlias)})
	if err != nil {
		return err
	}
	if got := aws.ToString(at.KeyMetadata.Arn); got != second.NewKey {
		v.problem("%s points to %s; want %s", ledgerAlias, got, second.NewKey)
	}
	return v.checkLeft(ctx, client)
}

// checkLeft checks what is named as left on the first key: its grant, and the bucket with
// the locked object version.
func (v *verifier) checkLeft(ctx context.Context, client *kms.Client) error {
	grants, err := client.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &v.stage.ledgerKey})
	if err != nil {
		return err
	}
	want := []string{"objects:demo-ledger"}
	for _, g := range grants.Grants {
		want = append(want, "grant:"+aws.ToString(g.GrantId))
	}
	got := slices.Clone(v.summary.Replacement.Left)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		v.problem("named as left on the old key of %s: %q; want %q", ledgerAlias, got, want)
	}
	return nil
}

// checkDefaults reads the default encryption of the buckets: one names the alias, and one
// the key that the alias points to.
func (v *verifier) checkDefaults(ctx context.Context) error {
	for _, b := range ledgers(v.second.first.NewKey) {
		out, err := v.stage.s3.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &b.name})
		if err != nil {
			return err
		}
		rule := out.ServerSideEncryptionConfiguration.Rules[0]
		if got := aws.ToString(rule.ApplyServerSideEncryptionByDefault.KMSMasterKeyID); got != b.key || aws.ToBool(rule.BucketKeyEnabled) != b.locking {
			v.problem("the default encryption of %s names %s; want %s", b.name, got, b.key)
		}
	}
	return nil
}
