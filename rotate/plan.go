package rotate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// PlanSchema is the schema of a Plan as JSON.
const PlanSchema = "cmkeeper.rotation-plan.v1"

// Plan is what a rotation would do. Nothing is written for it but the scratch object that
// tries how objects can be moved.
type Plan struct {
	Schema  string    `json:"schema"`
	At      time.Time `json:"at"`
	Aliases []string  `json:"aliases"`
	// Old is the ARN of the key that is replaced.
	Old   string     `json:"old_key"`
	Steps []PlanStep `json:"steps"`
	// Findings are what is wrong with the policy that the new key would have.
	Findings []finding.Finding `json:"findings"`
	// Buckets are those with data that moves.
	Buckets []reencrypt.BucketPlan `json:"buckets"`
	// Left is what would need the old key afterwards, or may.
	Left []Left `json:"left"`
	// Notes are what no check can see.
	Notes []string `json:"notes"`
	// Stops are why it could not begin; none: it can.
	Stops []string `json:"stops"`
	// USD and MonthlyUSD are what it costs once and each month: see reencrypt.Prices.
	USD        float64 `json:"usd"`
	MonthlyUSD float64 `json:"usd_monthly"`
}

// PlanStep is a step of a plan.
type PlanStep struct {
	Step Step   `json:"step"`
	What string `json:"what"`
	// Notes are what a person should know.
	Notes []string `json:"notes,omitempty"`
	USD   float64  `json:"usd,omitempty"`
}

// keyMonth is the price of a customer managed key, and of each of the first two rotations
// of one, in dollars a month (aws.amazon.com/kms/pricing).
const keyMonth = 1.0

// Plan says what Start and Resume would do with the same arguments. sample is how many
// object versions of each bucket are asked for their key, at random; 0 is all.
func (r *Rotator) Plan(ctx context.Context, alias string, others []string, c Choices, sample int) (Plan, error) {
	aliases := append([]string{alias}, others...)
	s, err := r.source(ctx, aliases)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{
		Schema: PlanSchema, At: time.Now().UTC(), Aliases: aliases, Old: s.key.ARN, MonthlyUSD: keyMonth,
		Findings: []finding.Finding{}, Buckets: []reencrypt.BucketPlan{}, Left: []Left{}, Notes: []string{}, Stops: []string{},
	}
	if why := s.blocker(c); why != "" {
		p.Stops = append(p.Stops, why)
	}
	if s.pending != "" {
		p.Steps = []PlanStep{{Step: StepRotateMaterial, What: "Makes the imported material " + s.pending + " the current one, with RotateKeyOnDemand. The key, its aliases and its data stay."}}
		return p, nil
	}
	if r.Judge != nil {
		found, err := r.Judge(s.key.ARN, s.policy)
		if err != nil {
			return p, fmt.Errorf("judge the policy of key %s: %w", s.key.ARN, err)
		}
		p.Findings = append(p.Findings, found...)
		if bad := worst(found); len(bad) > 0 && !c.AcceptPolicy {
			p.Stops = append(p.Stops, fmt.Sprintf("the policy has %s of severity high or above, which the new key would inherit", whole(len(bad), "finding")))
		}
	}
	buckets, left, err := r.bucketsInScope(ctx, c)
	if err != nil {
		return p, err
	}
	p.Left = append(p.Left, left...)
	if s.key.Spec == specSymmetric {
		if err := r.forecast(ctx, &p, buckets, c, sample); err != nil {
			return p, err
		}
	}
	check := r.Check
	check.Envelopes = c.Envelopes
	beside, err := check.Beside(ctx, s.key.ARN)
	if err != nil {
		return p, err
	}
	p.Notes = beside.Notes
	for _, l := range leftOf(beside) {
		// The aliases and defaults move; the others stay.
		if name, ok := strings.CutPrefix(l.ID, "alias:"); ok && slices.Contains(aliases, name) || strings.HasPrefix(l.ID, "bucket-default:") {
			continue
		}
		p.Left = append(p.Left, l)
	}
	p.Steps = s.steps(aliases, c, p.Buckets, buckets)
	for _, step := range p.Steps {
		p.USD += step.USD
	}
	return p, nil
}

// forecast plans the buckets' moves.
func (r *Rotator) forecast(ctx context.Context, p *Plan, buckets []inventory.Bucket, c Choices, sample int) error {
	for _, b := range buckets {
		plan, err := r.Mover.Forecast(ctx, c.options(b.Name, p.Old, ""), sample, func(n int64) {
			if r.Seen != nil {
				r.Seen(b.Name, n)
			}
		})
		if err != nil {
			return err
		}
		if plan.InScope.Versions > 0 {
			p.Buckets = append(p.Buckets, plan)
		}
		p.Left = append(p.Left, stuck(plan, "", "")...)
	}
	return nil
}

// stuck is what of a bucket stays under the old key: objects, and data keys in objects. more
// is what else is said of it.
func stuck(p reencrypt.BucketPlan, more, fix string) (left []Left) {
	var objects, dataKeys int64
	for _, g := range p.Groups {
		switch {
		case g.Sealed && g.Reason != "":
			dataKeys += g.Versions
		case g.Action == "refuse" && slices.Contains(p.From, g.Key):
			objects += g.Versions
		}
	}
	if objects > 0 {
		left = append(left, Left{"objects:" + p.Bucket, fmt.Sprintf("%s under the key in bucket %s cannot be moved.%s", versionsText(objects), p.Bucket, more), fix})
	}
	if dataKeys > 0 {
		left = append(left, Left{"envelopes:" + p.Bucket, fmt.Sprintf("Data keys of client-side encryption in %s of bucket %s are under the key, or may be, and cannot be moved.%s", versionsText(dataKeys), p.Bucket, more), fix})
	}
	return left
}

// dataKeys says in how many object versions data keys move, by their format.
func dataKeys(plans []reencrypt.BucketPlan) string {
	formats := map[string]int64{}
	for _, p := range plans {
		for _, g := range p.Groups {
			if g.Sealed && g.Reason == "" {
				formats[g.Envelope] += g.Versions
			}
		}
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(formats)) {
		all = append(all, fmt.Sprintf("%s in %s", name, versionsText(formats[name])))
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// steps says what each step does.
func (s source) steps(aliases []string, c Choices, plans []reencrypt.BucketPlan, buckets []inventory.Bucket) []PlanStep {
	var versions, bytes int64
	var usd float64
	for _, b := range plans {
		versions, bytes, usd = versions+b.Move.Versions, bytes+b.Move.Bytes, usd+b.CostUSD
	}
	var defaults []string
	for _, b := range buckets {
		if b.DefaultKeyARN == s.key.ARN && b.DefaultAlias == "" {
			defaults = append(defaults, b.Name)
		}
	}
	steps := []PlanStep{
		{Step: StepCreateKey, What: s.describe(c), Notes: s.notes(aliases)},
		{Step: StepSurvey, What: "Asks each object version for its key, and checks each bucket for what would stop its move."},
		{Step: StepMoveAliases, What: "Points " + strings.Join(aliases, ", ") + " to the new key. From then on new data is encrypted under it."},
		{Step: StepMoveDefaults, What: "Changes the default encryption of buckets that name the key by its id or ARN: " + cmp.Or(strings.Join(defaults, ", "), "none") + "."},
		{Step: StepMoveData, What: fmt.Sprintf("Moves %s (%d bytes) in %s, by jobs of the fleet, each verified by a pass of its own.", versionsText(versions), bytes, whole(len(plans), "bucket")), USD: usd},
		{Step: StepCheckOldKey, What: "Checks what still needs the old key, which stays enabled."},
	}
	if c.Envelopes.On() {
		steps[1].What += fmt.Sprintf(" Looks for data keys of client-side encryption (%s).", c.Envelopes)
		steps[4].What += " Data keys of client-side encryption that move: " + dataKeys(plans) + "."
		steps[4].Notes = []string{"An application that names the old key by its id or ARN to read data keys fails once they have moved, and one that names the alias fails until they have. Let it name no key, or both keys, one after the other."}
	}
	if c.DeleteOld {
		steps = append(steps, PlanStep{Step: StepDeleteOldKey, What: fmt.Sprintf("Schedules the deletion of the old key %d days ahead, once nothing is known to need it, it was not used for %d days, and you have confirmed it.", deletionDays, c.UnusedDays)})
	}
	return steps
}

// describe says what the new key will be like.
func (s source) describe(c Choices) string {
	what := fmt.Sprintf("Creates a key of spec %s for %s, origin %s", s.key.Spec, s.key.Usage, s.key.Origin)
	if s.key.MultiRegion != "" {
		what += ", multi-Region primary"
	}
	if s.rotation.Enabled {
		what += fmt.Sprintf(", automatic rotation every %d days", s.rotation.Period)
	}
	if c.XksKey != "" {
		what += ", external key " + c.XksKey
	}
	tags := 0
	for name := range s.tags {
		if copied(name) {
			tags++
		}
	}
	what += fmt.Sprintf(", with the old key's description, policy and %s", whole(tags, "tag"))
	if n := strings.Count(s.policy, s.key.ID); n > 0 {
		what += "; the policy names the key " + whole(n, "time") + ", and will name the new one"
	}
	return what + "."
}

// notes are what a person should know before the key is replaced.
func (s source) notes(aliases []string) (notes []string) {
	if s.key.RotationBlocker() == "" {
		notes = append(notes, "KMS can rotate this key itself, without moving anything. A new key is for material that must no longer be used, or for a wrong key policy or kind of key.")
	}
	if s.key.Spec != specSymmetric {
		notes = append(notes, "What was encrypted, signed or authenticated under the old key needs the old key: its signatures are verified by its public key, and its ciphertexts decrypted by nothing else.")
	}
	if s.key.Origin == originExternal {
		notes = append(notes, "The new key waits for its material, which you import. To keep the key instead, import new material into it (aws kms import-key-material --import-type NEW_KEY_MATERIAL), and run this command again.")
	}
	if n := len(s.key.Replicas); n > 0 {
		notes = append(notes, "The replicas in other Regions are not replaced: replicate the new key there, and move what is under them: "+strings.Join(s.key.Replicas, ", "))
	}
	if n := len(s.grants); n > 0 {
		notes = append(notes, fmt.Sprintf("The old key has %s, and the new one will have none: AWS services make their own when they use it; who made the others has to make them again.", whole(n, "grant")))
	}
	for _, a := range s.aliases {
		if !slices.Contains(aliases, a.Name) {
			notes = append(notes, a.Name+" points to the old key, too, and stays there unless you name it with --also.")
		}
	}
	return notes
}
