package reencrypt

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// PlanSchema is the schema of a Plan as JSON.
const PlanSchema = "cmkeeper.plan.v1"

// Plan is what a move would do, bucket by bucket. Nothing is written for it but
// the scratch objects of a preflight.
type Plan struct {
	Schema  string    `json:"schema"`
	Created time.Time `json:"created"`
	// Alias is the alias that the scope was resolved for; "" where there is none.
	Alias   string       `json:"alias,omitempty"`
	To      string       `json:"to"`
	Buckets []BucketPlan `json:"buckets"`
	// NotInScope are the buckets that the alias claims and that are left alone, with
	// the reason.
	NotInScope []string `json:"not_in_scope,omitempty"`
}

// BucketPlan is what a move would do to a bucket. Its members above Survey are those of
// an Order.
type BucketPlan struct {
	Bucket   string   `json:"bucket"`
	Prefix   string   `json:"prefix"`
	From     []string `json:"from"`
	To       string   `json:"to"`
	Versions Versions `json:"versions"`
	// Method is never MethodAuto, but what that came to.
	Method Method `json:"method"`
	// Envelopes and RewriteFiles are as in RunOptions.
	Envelopes    Envelopes `json:"envelopes,omitempty"`
	RewriteFiles bool      `json:"rewrite_files,omitempty"`

	Survey
	// InScope is what is under the old keys, with data keys or as a whole, Move what of it would be moved, and
	// Refuse what would not.
	InScope Amount `json:"in_scope"`
	Move    Amount `json:"move"`
	Refuse  Amount `json:"refuse"`

	Requests Requests `json:"requests"`
	// CostUSD is an estimate: see Prices.
	CostUSD float64 `json:"cost_usd"`
	// BatchUSD is what S3 Batch Operations would take beside that, were they to do
	// what is moved by update; 0 where nothing is.
	BatchUSD float64 `json:"batch_usd,omitempty"`
	// Seconds is how long the writes take at the engine's rate, 0 where that is unlimited.
	Seconds float64 `json:"seconds,omitempty"`

	Preflight []Finding `json:"preflight"`
}

// Amount is a number of object versions.
type Amount struct {
	Versions int64 `json:"versions"`
	Bytes    int64 `json:"bytes"`
}

func (a *Amount) add(g Group) { a.Versions, a.Bytes = a.Versions+g.Versions, a.Bytes+g.Bytes }

// Requests are the requests of a job, the verifying pass included.
type Requests struct {
	List int64 `json:"list"`
	Head int64 `json:"head"`
	// Get are those that look for data keys in what objects begin with.
	Get   int64 `json:"get,omitempty"`
	Write int64 `json:"write"`
	// KMS is what is asked of KMS at most: by S3 for objects without bucket keys, and about data keys.
	KMS int64 `json:"kms"`
}

// Prices says where the unit prices of estimates are from.
const Prices = "list prices of US East (N. Virginia) in US dollars as of 2025, from aws.amazon.com/s3/pricing and aws.amazon.com/kms/pricing; yours may differ"

// The unit prices, as Prices says.
const (
	priceList = 0.005 / 1000
	priceKMS  = 0.03 / 10_000
	// Of S3 Batch Operations; what its manifest generator takes is not known to us.
	priceBatchJob    = 0.25
	priceBatchObject = 1.0 / 1_000_000
)

// classPrice are the prices of a storage class: a PUT or COPY into it, a HEAD,
// and what reading a GB for a copy costs.
type classPrice struct{ put, head, retrieval float64 }

// standardPrice is that of the classes that are not in classPrices, too.
var standardPrice = classPrice{put: 0.005 / 1000, head: 0.0004 / 1000}

var classPrices = map[string]classPrice{
	"STANDARD_IA": {put: 0.01 / 1000, head: 0.001 / 1000, retrieval: 0.01},
	"ONEZONE_IA":  {put: 0.01 / 1000, head: 0.001 / 1000, retrieval: 0.01},
	"GLACIER_IR":  {put: 0.02 / 1000, head: 0.01 / 1000, retrieval: 0.03},
}

// Plan surveys a bucket, all of it or a random sample of so many versions, and
// says what a move as in o would do. seen is as for Survey. A preflight that finds
// what stops the bucket is no error; where that keeps the bucket from being read,
// the plan has the preflight only.
func (e *Engine) Plan(ctx context.Context, o RunOptions, sample int, seen func(int64)) (BucketPlan, error) {
	s, err := e.resolveSpec(ctx, o)
	if err != nil {
		return BucketPlan{}, err
	}
	p := planOfBucket(s)
	findings, settings, err := e.preflight(ctx, s, true)
	if err != nil {
		return p, err
	}
	method := settings.method
	if method == nil { // none may be used
		candidates := s.Method.candidates()
		method = candidates[len(candidates)-1]
	}
	p.Method, p.Preflight = method.traits().name, append([]Finding{}, findings...)
	if slices.ContainsFunc(settings.unread, func(u unread) bool { return u.stops }) ||
		slices.ContainsFunc(findings, func(f Finding) bool { return f.Name == findingMethod }) {
		return p, nil
	}
	return p, e.surveyPlan(ctx, s, method, &p, sample, seen)
}

// Forecast is Plan for a move to a key that does not exist yet: o.To is "". Nothing can
// be preflighted then.
func (e *Engine) Forecast(ctx context.Context, o RunOptions, sample int, seen func(int64)) (BucketPlan, error) {
	s, err := e.resolveSource(ctx, o)
	if err != nil {
		return BucketPlan{}, err
	}
	p := planOfBucket(s)
	known := s
	known.To = s.From[0] // whether a method may be used on a server does not depend on the key
	method, err := e.methodOf(ctx, known)
	if err != nil {
		return p, fmt.Errorf("plan bucket %s: %w", s.Bucket, err)
	}
	p.Method = method.traits().name
	return p, e.surveyPlan(ctx, s, method, &p, sample, seen)
}

func planOfBucket(s spec) BucketPlan {
	return BucketPlan{Bucket: s.Bucket, Prefix: s.Prefix, From: s.From, To: s.To, Versions: s.Versions, Envelopes: s.Envelopes, RewriteFiles: s.RewriteFiles, Survey: Survey{Groups: []Group{}}, Preflight: []Finding{}}
}

// surveyPlan surveys the bucket and estimates what it takes to move it by a method.
func (e *Engine) surveyPlan(ctx context.Context, s spec, method method, p *BucketPlan, sample int, seen func(int64)) error {
	m, err := e.moverBy(ctx, s, method)
	if err != nil {
		return err
	}
	m.rules.to = cmp.Or(s.To, "a key to come")
	if p.Survey, err = m.survey(ctx, sample, seen); err != nil {
		return fmt.Errorf("plan bucket %s: %w", s.Bucket, err)
	}
	p.estimate(method, e.opt.PartSize)
	if e.opt.Rate > 0 {
		p.Seconds = float64(p.Move.Versions) / e.opt.Rate
	}
	return nil
}

// estimate adds up the groups: what moves, in how many requests and for how much.
func (p *BucketPlan) estimate(m method, wishedPart int64) {
	// A planner and two passes list, and both passes ask each version.
	p.Requests = Requests{List: 3 * ((p.Listed + 999) / 1000), Head: 2 * p.Listed}
	p.InScope, p.Move, p.Refuse = Amount{}, Amount{}, Amount{}
	p.CostUSD, p.BatchUSD = float64(p.Requests.List)*priceList, 0
	looks := int64(2)
	if p.Envelopes == EnvelopesContent {
		p.Requests.Get = p.Requests.Head
		p.Requests.KMS = p.Requests.Get
		looks = 4 // S3 bills a GET as it does a HEAD
	}
	for _, g := range p.Groups {
		price, ok := classPrices[g.StorageClass]
		if !ok {
			price = standardPrice
		}
		p.CostUSD += float64(looks*g.Versions) * price.head
		inScope := slices.Contains(p.From, g.Key) || g.Sealed
		if inScope {
			p.InScope.add(g)
		}
		switch a := action(g.Action); {
		case a == refuse && inScope:
			p.Refuse.add(g)
		case a.moves():
			by := m
			if a == rewrap || a == rewrite {
				by = copyMethod{}
			}
			writes, usd := by.cost(g, price, wishedPart)
			p.Move.add(g)
			p.CostUSD += usd
			p.Requests.Write += writes
			p.Requests.KMS += 2 * writes
		}
		if g.Envelope != "" { // in each pass, for each old key and a data key or two
			p.Requests.KMS += 2 * g.Versions
		}
	}
	p.CostUSD += float64(p.Requests.KMS) * priceKMS
	p.CostUSD = math.Round(p.CostUSD*1e6) / 1e6
	if m.traits().name == batchMethod && p.Move.Versions > 0 {
		p.BatchUSD = math.Round((priceBatchJob+float64(p.Move.Versions)*priceBatchObject)*1e6) / 1e6
	}
}
