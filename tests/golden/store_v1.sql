BEGIN TRANSACTION;
CREATE TABLE calls (
	trace_id TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	node INTEGER, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	status TEXT NOT NULL, 
	model TEXT NOT NULL, 
	input_tokens INTEGER NOT NULL, 
	output_tokens INTEGER NOT NULL, 
	dollars DOUBLE NOT NULL, 
	seconds DOUBLE NOT NULL, 
	attempts INTEGER NOT NULL, 
	call_id TEXT NOT NULL, 
	turn INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	error TEXT NOT NULL, 
	confirmed BOOLEAN NOT NULL, 
	arguments TEXT, 
	result TEXT NOT NULL, 
	result_length INTEGER NOT NULL, 
	started DOUBLE NOT NULL, 
	agent TEXT NOT NULL, 
	PRIMARY KEY (trace_id, idx), 
	FOREIGN KEY(trace_id) REFERENCES traces (id) ON DELETE CASCADE
);
INSERT INTO "calls" VALUES('11111111111111111111111111111111',0,2,'tool','add','ok','',0,0,0.01,0.1,1,'c0',1,'','',0,NULL,'4',1,0.0,'');
CREATE TABLE feedback (
	id TEXT NOT NULL, 
	trace_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	score DOUBLE, 
	comment TEXT NOT NULL, 
	source TEXT NOT NULL, 
	created DOUBLE NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(trace_id) REFERENCES traces (id) ON DELETE CASCADE
);
CREATE TABLE nodes (
	trace_id TEXT NOT NULL, 
	idx INTEGER NOT NULL, 
	parent INTEGER, 
	role TEXT NOT NULL, 
	message TEXT NOT NULL, 
	token_ids BLOB, 
	logprobs BLOB, 
	exact BOOLEAN NOT NULL, 
	sampled BOOLEAN NOT NULL, 
	model TEXT, 
	response_id TEXT, 
	sampling TEXT, 
	logprobs_mode TEXT, 
	finish_reason TEXT, 
	usage TEXT, 
	started DOUBLE, 
	seconds DOUBLE, 
	dollars DOUBLE, 
	agent TEXT, 
	is_policy BOOLEAN, 
	tools TEXT, 
	raw_text TEXT, 
	invalid_tool_calls TEXT, 
	rewrites TEXT, 
	PRIMARY KEY (trace_id, idx), 
	FOREIGN KEY(trace_id) REFERENCES traces (id) ON DELETE CASCADE
);
INSERT INTO "nodes" VALUES('11111111111111111111111111111111',0,NULL,'system','{"role":"system","content":"Be brief."}',NULL,NULL,1,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "nodes" VALUES('11111111111111111111111111111111',1,0,'user','{"role":"user","content":"Add."}',X'0000000001000000020000000300000004000000',NULL,1,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "nodes" VALUES('11111111111111111111111111111111',2,1,'assistant','{"role":"assistant","content":"","tool_calls":[{"id":"c0","type":"function","function":{"name":"add","arguments":"{\"turn\": 0}"}}]}',X'E8030000E8030000E8030000',X'000080BE000000BF00000080',1,1,'policy-1','r0','{"temperature":0.7}','processed_logprobs','tool_calls','{"prompt_tokens":5,"completion_tokens":3}',0.0,0.5,0.001,'',1,'ba44a18f7ba391a458188b17b57069e9','',NULL,NULL);
INSERT INTO "nodes" VALUES('11111111111111111111111111111111',3,2,'tool','{"role":"tool","tool_call_id":"c0","content":"4"}',X'0700000007000000',NULL,1,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "nodes" VALUES('11111111111111111111111111111111',4,3,'assistant','{"role":"assistant","content":"4"}',X'E9030000E9030000E9030000',X'000080BE000000BF000080BF',1,1,'policy-1','r1','{"temperature":0.7}','processed_logprobs','stop','{"prompt_tokens":10,"completion_tokens":3}',0.0,0.5,0.001,'',1,'ba44a18f7ba391a458188b17b57069e9','',NULL,NULL);
CREATE TABLE rewards (
	id TEXT NOT NULL, 
	trace_id TEXT NOT NULL, 
	"values" TEXT NOT NULL, 
	verifier TEXT NOT NULL, 
	created DOUBLE NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(trace_id) REFERENCES traces (id) ON DELETE CASCADE
);
CREATE TABLE snapshots (
	hash TEXT NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (hash)
);
INSERT INTO "snapshots" VALUES('ba44a18f7ba391a458188b17b57069e9','[{"type":"function","function":{"name":"add","parameters":{"type":"object"}}}]');
INSERT INTO "snapshots" VALUES('f0a3afbd63cda5e60f700ed9868c0004','{"entries":[{"name":"add","price_per_call":0.01}]}');
CREATE TABLE toolorch_schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "toolorch_schema" VALUES(1);
CREATE TABLE traces (
	id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	started DOUBLE NOT NULL, 
	ended DOUBLE, 
	app TEXT NOT NULL, 
	framework TEXT NOT NULL, 
	thread_id TEXT NOT NULL, 
	request TEXT NOT NULL, 
	answer TEXT NOT NULL, 
	error TEXT NOT NULL, 
	preferences TEXT, 
	budget TEXT, 
	catalog_hash TEXT NOT NULL, 
	policy_versions TEXT NOT NULL, 
	exact BOOLEAN NOT NULL, 
	turns INTEGER NOT NULL, 
	calls INTEGER NOT NULL, 
	input_tokens INTEGER NOT NULL, 
	output_tokens INTEGER NOT NULL, 
	dollars DOUBLE NOT NULL, 
	seconds DOUBLE NOT NULL, 
	metadata TEXT NOT NULL, 
	host TEXT NOT NULL, 
	boot TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	process_start BIGINT NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "traces" VALUES('11111111111111111111111111111111','answered',1000.0,1.79527627999695253376e+09,'adder','langgraph','thread-1','Add.','4','','{"cost":0.5}','{"dollars":1.0}','f0a3afbd63cda5e60f700ed9868c0004','["policy-1"]',1,2,1,15,6,0.012,1.1,'{"tags":["nightly"]}','','',0,0,1);
CREATE INDEX traces_thread ON traces (thread_id);
CREATE INDEX traces_status ON traces (status);
CREATE INDEX traces_started ON traces (started, id);
CREATE INDEX feedback_trace ON feedback (trace_id);
CREATE INDEX rewards_trace ON rewards (trace_id);
COMMIT;
