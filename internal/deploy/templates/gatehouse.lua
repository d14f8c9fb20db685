-- Asks the gate whether a request may pass, and leaves its answer's status in txn.gatehouse_status; 0 is none.
-- Of the client's headers only those with credentials go to the gate.
core.register_action("gatehouse", { "http-req" }, function(txn)
	txn:set_var("txn.gatehouse_status", 0)
	local headers = {
		["host"] = { "127.0.0.1" },
		["x-original-method"] = { txn.sf:method() },
		["x-original-uri"] = { txn.f:pathq() },
		["x-forwarded-for"] = { txn.f:src() },
	}
	local sent = txn.http:req_get_headers()
	for _, name in ipairs({ "authorization", "proxy-authorization", "x-api-key", "origin" }) do
		if sent[name] then
			local values = {}
			for i = 0, #sent[name] do
				values[#values + 1] = sent[name][i]
			end
			headers[name] = values
		end
	end
	local answer = core.httpclient():get({ url = "http://127.0.0.1:9644/auth", headers = headers, timeout = 10000 })
	if answer and answer.status then
		txn:set_var("txn.gatehouse_status", answer.status)
	end
end)
