package access_test

import (
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cmkeeper/cmkeeper/access"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// TestAsLocalawsDecides reviews random accounts that are read from localaws, and has its own
// evaluator, which shares no code with the review, answer for each principal, action and
// request: nobody is missing, nobody is extra, and what depends on the request is conditional.
func TestAsLocalawsDecides(t *testing.T) {
	all, each := requests(), requestsEach(t)
	allowed, asked, conditional, shown := 0, 0, 0, 0
	for seed := range uint64(accounts) {
		server := localaws.New(localaws.Options{Account: account, Region: "eu-central-1"})
		tried := generate(t, server, seed, all, each)
		read, err := access.Read(t.Context(), awsclient.NewIAM(inprocess.Config(server, "eu-central-1", "reader")), account)
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]string{}
		for _, p := range append(read.Users, read.Roles...) {
			ids[p.ARN] = p.ID
		}
		review := access.New(read, access.Context{Now: now})
		holders, err := review.Holders(tried.key)
		if err != nil {
			t.Fatal(seed, err)
		}
		said := map[string]access.Holder{}
		for _, h := range holders {
			said[h.Principal] = h
		}
		on := tried.resource(t)
		for _, principal := range tried.principals {
			for _, action := range actions {
				yes, no := 0, 0
				for i, r := range tried.requests {
					asked++
					answer := tried.ask(t, on, principal, action, r)
					if answer {
						yes++
					} else {
						no++
					}
					if i >= decidedEach {
						continue
					}
					verdict, err := review.Decide(principal, action, tried.key, r.of(principal, ids[principal]))
					if err != nil || verdict == access.Conditional || (verdict == access.Yes) != answer {
						t.Fatalf("seed %d: %s may %s: %v, %v; localaws says %t: %v\nkey policy %s\ngrants %+v", seed, principal, action, verdict, err, answer, r, tried.key.Policy, tried.key.Grants)
					}
				}
				allowed += yes
				switch verdict := said[principal].May(action); {
				case verdict == access.Yes && no > 0, verdict == access.No && yes > 0:
					t.Fatalf("seed %d: %s may %s: %v; localaws allows %d requests and denies %d\nkey policy %s\ngrants %+v", seed, principal, action, verdict, yes, no, tried.key.Policy, tried.key.Grants)
				case verdict == access.Conditional:
					conditional++
					if yes > 0 && no > 0 {
						shown++
					}
				}
			}
		}
		server.Close()
	}
	t.Logf("%d of %d requests allowed, %d conditional rights, of which %d depend on them", allowed, asked, conditional, shown)
	if allowed < asked/10 || allowed > asked*9/10 {
		t.Errorf("%d of %d requests are allowed: the accounts try too little", allowed, asked)
	}
	if shown < conditional*4/5 {
		t.Errorf("only %d of %d conditional rights depend on the requests that are tried", shown, conditional)
	}
}

// TestAssumersAsLocalawsDecides is the same for who may assume a role that holds the key. The
// root user may not, and is left out.
func TestAssumersAsLocalawsDecides(t *testing.T) {
	all, each := requests(), requestsEach(t)
	may, certain := 0, 0
	for seed := range uint64(accounts) {
		server := localaws.New(localaws.Options{Account: account, Region: "eu-central-1"})
		tried := generate(t, server, seed, all, each)
		read, err := access.Read(t.Context(), awsclient.NewIAM(inprocess.Config(server, "eu-central-1", "reader")), account)
		if err != nil {
			t.Fatal(err)
		}
		review := access.New(read, access.Context{Now: now})
		for _, role := range read.Roles {
			holder, _, err := review.Of(role.ARN, keyWith(statement(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}`)))
			if err != nil {
				t.Fatal(err)
			}
			if len(holder.Rights) == 0 { // something denies it all
				continue
			}
			said := map[string]access.Verdict{}
			for _, a := range holder.Assumers {
				if len(a.Through) > 0 {
					continue
				}
				if role, _, ok := strings.Cut(strings.TrimPrefix(a.Principal, "arn:aws:sts::"+account+":assumed-role/"), "/"); ok && said[arnOf("role", role)] == "" {
					said[arnOf("role", role)] = access.Conditional // by one of its sessions
				}
				said[a.Principal] = a.Verdict
			}
			for _, principal := range tried.principals {
				if principal == role.ARN || strings.HasSuffix(principal, ":root") {
					continue
				}
				yes, no := 0, 0
				for _, r := range tried.requests {
					answer, known := tried.iam.Assume(tried.request(principal, "", r), role.ARN)
					if !known {
						t.Fatalf("localaws does not know %s or %s", principal, role.ARN)
					}
					if answer.Allowed {
						yes++
					} else {
						no++
					}
				}
				may += yes
				if said[principal] == access.Yes {
					certain++
				}
				if said[principal] == access.Yes && no > 0 || said[principal] == "" && yes > 0 {
					t.Errorf("seed %d: %s may assume %s: %q; localaws allows %d requests and denies %d: %s", seed, principal, role.ARN, said[principal], yes, no, role.Trust)
				}
			}
		}
		server.Close()
	}
	t.Logf("%d requests allowed, %d who always may", may, certain)
	if may == 0 || certain == 0 {
		t.Error("nobody may assume a role: the accounts try too little")
	}
}

// accounts are tried with as many requests each (see requestsEach), of which the review
// decides some one by one.
const accounts, decidedEach = 300, 4

// requestsEach is how many requests of each principal for each action are tried: 20, or as
// many as CMKEEPER_DIFFERENTIAL_REQUESTS says.
func requestsEach(t *testing.T) int {
	text := os.Getenv("CMKEEPER_DIFFERENTIAL_REQUESTS")
	if text == "" {
		return 20
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("CMKEEPER_DIFFERENTIAL_REQUESTS=%q is not a number of requests", text)
	}
	return n
}

// of is the request as one of a principal, whose unique id is given.
func (r request) of(principal, id string) map[string][]string {
	if !strings.Contains(principal, ":role/") {
		return r.values
	}
	values := maps.Clone(r.values)
	values["aws:userid"] = []string{id + ":" + r.session}
	return values
}

// resource is the key as localaws's evaluator takes it.
func (tried trial) resource(t *testing.T) iam.Resource {
	t.Helper()
	policy, err := iam.Parse([]byte(tried.key.Policy))
	if err != nil {
		t.Fatal(err)
	}
	on := iam.Resource{Account: account, Policy: policy}
	for _, g := range tried.key.Grants {
		grant := iam.Grant{Grantee: g.Grantee, Operations: g.Operations}
		switch {
		case !g.Constrained:
		case g.Exact:
			grant.ContextEquals = g.Context
		default:
			grant.ContextSubset = g.Context
		}
		on.Grants = append(on.Grants, grant)
	}
	return on
}

// ask has localaws's evaluator answer.
func (tried trial) ask(t *testing.T, on iam.Resource, principal, action string, r request) bool {
	t.Helper()
	answer, known := tried.iam.Decide(tried.request(principal, action, r), on)
	if !known {
		t.Fatalf("localaws does not know %s", principal)
	}
	return answer.Allowed
}

// request is the request as localaws's evaluator takes it.
func (tried trial) request(principal, action string, r request) iam.Request {
	q := iam.Request{
		Principal: principal, Action: action, Resource: tried.key.ARN,
		Context: map[string]string{"kms:CallerAccount": account}, Several: r.values,
	}
	if head, role, ok := strings.Cut(principal, ":role/"); ok {
		q.Principal = strings.Replace(head, ":iam:", ":sts:", 1) + ":assumed-role/" + role[strings.LastIndexByte(role, '/')+1:] + "/" + r.session
	}
	for name, value := range tried.key.Tags {
		q.Context["aws:ResourceTag/"+name] = value
	}
	for name, values := range r.values { // a grant's constraints look there
		if strings.HasPrefix(name, "kms:EncryptionContext:") {
			q.Context[name] = values[0]
		}
	}
	return q
}
